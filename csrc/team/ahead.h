// Memory that will be read soon, fetched while products are computed.
#pragma once

#include "simd.h"

namespace fastmaml::FM_ISA {

// What of it is still to be fetched: addresses.
struct Ahead {
  uintptr_t next = 0, end = 0;
};

// Fetches in the inner loop of a tile with so many sums, to the second-level cache. A line for
// about a dozen multiply-adds, which take as long as it does from the third level; tiles that are
// smaller wait for their sums as it is.
template <int sums>
class Fetcher {
 public:
  FM_INLINE explicit Fetcher(Ahead* ahead)
      : ahead_(ahead && ahead->next < ahead->end ? ahead : nullptr),
        next_(ahead_ ? ahead_->next : 0) {}

  FM_INLINE void step() {
    if (!ahead_) return;
#pragma GCC unroll 4
    for (int i = 0; i < lines; ++i, next_ += line) {
      __builtin_prefetch(reinterpret_cast<const void*>(next_), 0, 2);
    }
  }

  // By then it may be past the end, where a fetch does nothing or what is not asked for, and never
  // fails.
  FM_INLINE void finish() {
    if (ahead_) ahead_->next = next_;
  }

 private:
  static constexpr int lines = (sums + 2) / 12;
  static constexpr uintptr_t line = 64;  // bytes

  Ahead* ahead_;  // null: nothing is left
  uintptr_t next_;
};

}  // namespace fastmaml::FM_ISA
