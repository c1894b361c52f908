// The matrix product of several tasks in lockstep, one in each lane of the vectors.
//
// An element of a, b or c is a vector here: the numbers of all tasks, which lie together. So every
// load is whole whatever the strides are, no operand has to be turned around, and no lane is idle
// however narrow the product is.
#pragma once

#include "gemm.h"

namespace fastmaml::FM_ISA {

// A tile of rows x columns vectors of c.
template <class Real>
struct LockstepTile : TileShape<TileLimits::outer_sums, 12, TileLimits::lockstep_vectors> {
  template <int rows, int columns>
  static void run(const Product<Real>& p, int64_t i, int64_t j) {
    using V = Vec<Real>;
    Factors<Real> factors(p, i, j);
    const int64_t a_row = p.a.row_stride, a_step = p.a.col_stride;
    const int64_t b_col = p.b.col_stride, b_step = p.b.row_stride, k = p.k;
    V acc[rows][columns];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) acc[r][s] = V::zero();
    }
    do {
      const Real *a = factors.a, *b = factors.b;
      for (int64_t e = 0; e < k; ++e, a += a_step, b += b_step) {
        V b_at[columns];
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) b_at[s] = V::load(b + s * b_col);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const V a_at = V::load(a + r * a_row);
#pragma GCC unroll 8
          for (int s = 0; s < columns; ++s) acc[r][s] = fma(a_at, b_at[s], acc[r][s]);
        }
      }
    } while (factors.next());
    const V alpha = V::broadcast(p.alpha);
    const int64_t c_row = p.c.row_stride, c_col = p.c.col_stride;
    const int64_t init_row = p.init.row_stride, init_col = p.init.col_stride;
    Real* c = at(p.c, i, j);
    auto finish = [&](auto start) FM_ALWAYS_INLINE {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r, c += c_row) {
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) start(r, s, acc[r][s]).store(c + s * c_col);
      }
    };
    if (p.init.data) {
      const Real* init = at(p.init, i, j);
      finish([&](int r, int s, V sum) FM_ALWAYS_INLINE {
        return fma(alpha, sum, V::load(init + r * init_row + s * init_col));
      });
    } else {
      finish([&](int, int, V sum) FM_ALWAYS_INLINE { return mul(alpha, sum); });
    }
  }
};

// Computes c of every task; strides count vectors. init.data null means zero.
template <class Real>
void gemm_in_lockstep(Product<Real> p) {
  const auto in_numbers = [](auto& view) {
    view.row_stride *= Vec<Real>::width;
    view.col_stride *= Vec<Real>::width;
  };
  in_numbers(p.a);
  in_numbers(p.b);
  in_numbers(p.init);
  in_numbers(p.c);
  // Tiles hold more rows than columns.
  cover<Real, LockstepTile<Real>>(p.m < p.n && p.m < LockstepTile<Real>::max_columns ? transposed(p)
                                                                                     : p);
}

}  // namespace fastmaml::FM_ISA
