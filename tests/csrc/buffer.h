// Memory for the checks of one instruction set, which do without the standard library's templates
// as the kernels do.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "team/team.h"

namespace fastmaml::FM_ISA {

// `size` numbers, of which the address sanitizer guards both ends.
template <class Real>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : size_(size), data_(static_cast<Real*>(std::malloc(size * sizeof(Real)))) {}
  Buffer(const Buffer& other) : Buffer(other.size_) {
    std::memcpy(data_, other.data_, size_ * sizeof(Real));
  }
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  Real* data() { return data_; }
  int64_t size() const { return size_; }
  Real& operator[](int64_t i) { return data_[i]; }

  // Numbers in -1..1 with few digits, from a sequence that `seed` names.
  void fill(uint32_t seed) {
    for (int64_t i = 0; i < size_; ++i) {
      seed = seed * 1664525u + 1013904223u;
      data_[i] = Real(static_cast<int32_t>(seed >> 12) - (1 << 19)) / Real(1 << 19);
    }
  }

  void fill_with(Real value) {
    for (int64_t i = 0; i < size_; ++i) data_[i] = value;
  }

  bool same_bits(const Buffer& other) const {
    return size_ == other.size_ && std::memcmp(data_, other.data_, size_ * sizeof(Real)) == 0;
  }

 private:
  int64_t size_;
  Real* data_;
};

}  // namespace fastmaml::FM_ISA
