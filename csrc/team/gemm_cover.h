// How tiles cover a matrix product, or a part of one (gemm.h).
#pragma once

#include "gemm_tiles.h"

namespace fastmaml::FM_ISA {

struct Range {
  int64_t begin, end;
};

// One of `parts` nearly equal parts of 0..count-1.
FM_INLINE Range part(int64_t count, int64_t parts, int64_t index) {
  return {count * index / parts, count * (index + 1) / parts};
}

FM_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The rows and columns of c that are given.
template <class Real>
FM_INLINE Product<Real> slice(const Product<Real>& p, Range rows, Range columns) {
  auto from = [&](auto view) {
    if (view.data) view.data = at(view, rows.begin, columns.begin);
    return view;
  };
  Product<Real> result = p;
  const Factors<Real> factors(p, rows.begin, columns.begin);
  result.m = rows.end - rows.begin;
  result.n = columns.end - columns.begin;
  result.a.data = factors.a;
  result.b.data = factors.b;
  result.a_more = factors.a_more;
  result.b_more = factors.b_more;
  result.init = from(p.init);
  result.c = from(p.c);
  return result;
}

// 0..count-1 in runs of nearly equal size, none longer than `most`: those of size + 1 come first.
struct Runs {
  int64_t size, longer, shorter;  // and how many there are of size + 1, and of size

  Runs(int64_t count, int64_t most) {
    const int64_t runs = ceil_div(count, most);
    size = count / runs;
    longer = count - size * runs;
    shorter = runs - longer;
  }
  int64_t operator[](int64_t index) const { return size + (index < longer); }
};

// Numbers that stay in the first-level cache beside others.
template <class Real>
constexpr int64_t cache = 16 * 1024 / sizeof(Real);

// And in the second-level one.
template <class Real>
constexpr int64_t second_cache = 16 * cache<Real>;

// Covers c with tiles of nearly equal sizes.
template <class Real, class Tile>
void cover(const Product<Real>& p) {
  static constexpr auto tiles = make_tiles<Real, Tile>();
  constexpr int64_t width = Tile::column_width;
  if (p.m == 0 || p.n == 0) return;
  const int64_t all_columns = ceil_div(p.n, width);
  const Runs columns(all_columns, Tile::columns_for(p.m));
  if (p.k * p.n <= cache<Real> && p.k * p.m > cache<Real>) {  // a is the one to read once
    const Runs rows(p.m, Tile::rows_beside(static_cast<int>(columns[0])));
    for (int64_t r = 0, i = 0; i < p.m; i += rows[r++]) {
      for (int64_t s = 0, j = 0; j < all_columns; j += columns[s++]) {
        tiles.run[rows[r] - 1][columns[s] - 1](p, i, j * width, 1);
      }
    }
    return;
  }
  int64_t j = 0;
  const auto strips = [&](int64_t count, int64_t size) {
    if (count == 0) return;
    const Runs rows(p.m, Tile::rows_beside(static_cast<int>(size)));
    for (; count > 0; --count, j += size) {
      if (rows.longer) tiles.run[rows.size][size - 1](p, 0, j * width, rows.longer);
      const int64_t below = rows.longer * (rows.size + 1);
      tiles.run[rows.size - 1][size - 1](p, below, j * width, rows.shorter);
    }
  };
  strips(columns.longer, columns.size + 1);
  strips(columns.shorter, columns.size);
}

// The terms of a product's sums with these k. Those after the first add to c.
template <class Real>
FM_INLINE Product<Real> terms(const Product<Real>& p, Range depth) {
  Product<Real> result = p;
  const int64_t a_step = depth.begin * p.a.col_stride, b_step = depth.begin * p.b.row_stride;
  result.k = depth.end - depth.begin;
  result.a.data += a_step;
  result.b.data += b_step;
  if (p.a_more) {
    result.a_more += a_step;
    result.b_more += b_step;
  }
  if (depth.begin > 0) result.init = {p.c.data, p.c.row_stride, p.c.col_stride};
  return result;
}

}  // namespace fastmaml::FM_ISA
