// What the products of a thread block share (block_gemm.h).
#pragma once

#include "team.h"

namespace fastmaml::FM_ISA {

// The operands of a product; a_more and b_more lie as a and b do, null: one product alone.
template <class Real>
struct BlockProduct {
  int m, n, k;
  Real alpha;
  View<const Real> a, b, init;
  View<Real> c;
  const Real *a_more, *b_more;
};

FM_HD int min_of(int a, int b) { return a < b ? a : b; }

// a / b of numbers below 2^23, without the many instructions of whole numbers; division by what the
// compiler knows takes but few.
FM_HD int quotient(int a, int b) {
#ifdef FM_COMPILED
  return a / b;
#else
  return static_cast<int>(float(a) / float(b));
#endif
}

// The part of `all` things that falls to this block.
struct BlockPart {
  int first, count;

  template <class Lanes>
  FM_HD BlockPart(int all, const Lanes& lanes) : first(0), count(all) {
    if (lanes.blocks() == 1) return;
    const int each = (all + lanes.blocks() - 1) >> lanes.log_blocks();
    first = min_of(each * lanes.block(), all);
    count = min_of(each, all - first);
  }
};

constexpr int tile = 4;  // rows and columns of c that a lane holds

FM_HD int tiles_of(int count) { return (count + tile - 1) / tile; }

// Some numbers side by side, aligned for the longest loads.
template <class Real>
struct alignas(16) Pack {
  Real value[tile];
};

// sums += a b^T
template <class Real>
FM_HD void add_outer(const Real (&a)[tile], const Real (&b)[tile], Real (&sums)[tile][tile]) {
  for (int r = 0; r < tile; ++r) {
    for (int s = 0; s < tile; ++s) sums[r][s] += a[r] * b[s];
  }
}

}  // namespace fastmaml::FM_ISA
