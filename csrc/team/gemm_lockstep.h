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
  static void run(const Product<Real>& p, int64_t i, int64_t j, int64_t count) {
    Factors<Real> factors(p, i, j);
    const Real* init = p.init.data ? at(p.init, i, j) : nullptr;
    Real* c = at(p.c, i, j);
    for (; count > 0; --count) {
      tile<rows, columns>(p, factors, init, c);
      factors.move_down(rows, p.a.row_stride);
      if (init) init += rows * p.init.row_stride;
      c += rows * p.c.row_stride;
    }
  }

 private:
  template <int rows, int columns>
  FM_INLINE static void tile(const Product<Real>& p, const Factors<Real>& factors, const Real* init,
                             Real* c) {
    using V = Vec<Real>;
    const int64_t a_row = p.a.row_stride, a_step = p.a.col_stride;
    const int64_t b_col = p.b.col_stride, b_step = p.b.row_stride, k = p.k;
    V acc[rows][columns];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) acc[r][s] = V::zero();
    }
    auto add_product = [&](const Real* a, const Real* b) FM_ALWAYS_INLINE {
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
    };
    // The loop over k is there twice: where one was for both, the compiler kept fewer of its
    // addresses in registers.
    add_product(factors.a, factors.b);
    if (factors.a_more) add_product(factors.a_more, factors.b_more);
    const V alpha = V::broadcast(p.alpha);
    const int64_t c_row = p.c.row_stride, c_col = p.c.col_stride;
    const int64_t init_row = p.init.row_stride, init_col = p.init.col_stride;
    auto finish = [&](auto start) FM_ALWAYS_INLINE {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r, c += c_row) {
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) start(r, s, acc[r][s]).store(c + s * c_col);
      }
    };
    if (init) {
      finish([&](int r, int s, V sum) FM_ALWAYS_INLINE {
        return fma(alpha, sum, V::load(init + r * init_row + s * init_col));
      });
    } else {
      finish([&](int, int, V sum) FM_ALWAYS_INLINE { return mul(alpha, sum); });
    }
  }
};

// c = init + alpha * (a b + a_more b_more), with a column a and a row b: nothing to hold in
// registers, so every element is finished at once.
template <bool has_more, bool has_init, class Real>
void outer_product(const Product<Real>& p) {
  using V = Vec<Real>;
  const V alpha = V::broadcast(p.alpha);
  const int64_t b_col = p.b.col_stride, init_col = p.init.col_stride, c_col = p.c.col_stride;
  for (int64_t i = 0; i < p.m; ++i) {
    const int64_t a_row = i * p.a.row_stride;
    const V a = V::load(p.a.data + a_row);
    const V a_more = has_more ? V::load(p.a_more + a_row) : V::zero();
    const Real* init = has_init ? p.init.data + i * p.init.row_stride : nullptr;
    Real* c = p.c.data + i * p.c.row_stride;
    for (int64_t j = 0; j < p.n; ++j) {
      V sum = mul(a, V::load(p.b.data + j * b_col));
      if (has_more) sum = fma(a_more, V::load(p.b_more + j * b_col), sum);
      sum = has_init ? fma(alpha, sum, V::load(init + j * init_col)) : mul(alpha, sum);
      sum.store(c + j * c_col);
    }
  }
}

template <class Real>
void outer_product(const Product<Real>& p) {
  if (p.a_more) {
    p.init.data ? outer_product<true, true>(p) : outer_product<true, false>(p);
  } else {
    p.init.data ? outer_product<false, true>(p) : outer_product<false, false>(p);
  }
}

// Covers c in blocks of rows whose part of a stays in the first-level cache while b goes by.
template <class Real>
void cover_in_blocks(const Product<Real>& p) {
  constexpr int64_t vectors = 28 * 1024 / sizeof(Vec<Real>);
  const int64_t rows = vectors / (p.k * (p.a_more ? 2 : 1) + 1);
  constexpr int64_t tile = LockstepTile<Real>::rows_beside(LockstepTile<Real>::max_columns);
  // Where they would fill no tile, b is the one to read once.
  if (rows >= p.m || rows < tile - 1) return cover<Real, LockstepTile<Real>>(p);
  const Runs blocks(p.m, rows);
  for (int64_t block = 0, i = 0; i < p.m; i += blocks[block++]) {
    cover<Real, LockstepTile<Real>>(slice(p, {i, i + blocks[block]}, {0, p.n}));
  }
}

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
  if (p.k == 1) return outer_product(p);
  // Tiles hold more rows than columns.
  cover_in_blocks(p.m < p.n && p.m < LockstepTile<Real>::max_columns ? transposed(p) : p);
}

}  // namespace fastmaml::FM_ISA
