// Working memory that calls hand on to each other, so that a steady stream of them allocates
// nothing and touches no new pages.
#pragma once

#include <cstddef>

namespace fastmaml {

// A block of at least `bytes` bytes, on a cache line's boundary, as long as this lives. Its
// content is undefined. Throws std::bad_alloc.
class Memory {
 public:
  explicit Memory(size_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace fastmaml
