#include "memory.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <utility>

#include "cpu_features.h"

namespace fastmaml {
namespace {

constexpr std::align_val_t alignment{64};

// New pages cost as much as the work on them, and with more threads there is more of both.
size_t largest_kept() {
  constexpr size_t mebibyte = size_t{1} << 20;
  return std::max(64 * mebibyte, 16 * mebibyte * static_cast<size_t>(machine_cores()));
}

// The block that was released last. One is enough: calls at the same time are rare, and a larger
// block would be held for nothing. Nobody waits for the mutex: a process that was forked while
// another thread held it would wait for ever.
struct Kept {
  std::mutex mutex;
  void* data = nullptr;
  size_t bytes = 0;
};

// Never destroyed: threads may still release memory while the process exits.
Kept& kept() {
  static Kept* const kept = new Kept;
  return *kept;
}

}  // namespace

Memory::Memory(size_t bytes) : data_(nullptr), bytes_(bytes ? bytes : 1) {
  {
    const std::unique_lock lock(kept().mutex, std::try_to_lock);
    if (lock && kept().bytes >= bytes_) {
      data_ = std::exchange(kept().data, nullptr);
      bytes_ = std::exchange(kept().bytes, 0);
    }
  }
  if (!data_) data_ = ::operator new(bytes_, alignment);
}

Memory::~Memory() {
  void* unused = data_;
  if (bytes_ <= largest_kept()) {
    const std::unique_lock lock(kept().mutex, std::try_to_lock);
    if (lock && bytes_ > kept().bytes) {
      unused = std::exchange(kept().data, data_);
      kept().bytes = bytes_;
    }
  }
  ::operator delete(unused, alignment);
}

}  // namespace fastmaml
