// Gradients that are summed over chunks of tasks: finished in any order, added in that of the
// chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "executor.h"

namespace fastmaml {

// A team takes a buffer, sums a chunk's gradients in it, and hands it over. A chunk that is
// finished before its turn waits in its buffer, so that a team on a slow core holds up no other as
// long as there are buffers.
template <class Real>
class OrderedSum {
 public:
  // buffers: how many, of `stride` numbers each, there are at `memory`.
  OrderedSum(const std::vector<SummedGradient<Real>>& gradients, int64_t chunks, Real* memory,
             int64_t buffers, int64_t stride)
      : gradients_(gradients), finished_(chunks) {
    for (int64_t i = 0; i < buffers; ++i) free_.push_back(memory + i * stride);
  }

  // A buffer; null if none is free now. Chunks must be begun in their order, after this, or all
  // buffers could be with later chunks than the one whose turn it is.
  Real* try_take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return nullptr;
    Real* buffer = free_.back();
    free_.pop_back();
    return buffer;
  }

  // Takes the sums of a chunk, and adds all whose turn has come, unless another thread is about to.
  void finish(int64_t chunk, Real* sums) {
    std::unique_lock lock(mutex_);
    finished_[chunk] = sums;
    if (is_adding_) return;
    is_adding_ = true;
    for (; next_ < static_cast<int64_t>(finished_.size()) && finished_[next_]; ++next_) {
      Real* from = finished_[next_];
      lock.unlock();
      add(from, next_ == 0);
      lock.lock();
      free_.push_back(from);
    }
    is_adding_ = false;
  }

 private:
  void add(const Real* sums, bool is_first) const {
    for (const SummedGradient<Real>& gradient : gradients_) {
      const Real* from = sums + gradient.offset;
      Real* to = gradient.to;
      if (is_first) {
        std::copy_n(from, gradient.size, to);
      } else {
        for (int64_t i = 0; i < gradient.size; ++i) to[i] += from[i];
      }
    }
  }

  const std::vector<SummedGradient<Real>>& gradients_;
  std::mutex mutex_;  // of all that follows; next_ is read without it by the thread that adds
  std::vector<Real*> free_;
  std::vector<Real*> finished_;  // one a chunk; null: not yet
  int64_t next_ = 0;             // the chunk to be added next
  bool is_adding_ = false;
};

}  // namespace fastmaml
