// Small matrix products, or sums of two, out of the caches: c = init + alpha * (a b + a' b').
//
// The strides alone choose one of three ways through the product:
//
//   dot     a and b contiguous along k     (y = x w^T): vectors run along k, lanes are summed last
//   outer   b and c contiguous along j     (x_bar = y_bar w, w_bar = y_bar^T x): vectors run along
//           j, elements of a are broadcast; its mirror where a and c are contiguous along i
//   plain   any other strides, one element at a time
//
// Each way holds a tile of c in registers while k runs (gemm_tiles.h). Where there are rows enough
// to share the work, b is turned around and dot becomes outer; that, and outer where b is large,
// reads panels (gemm_panels.h). An element of c is summed in the same order whatever tile it falls
// in: lane by lane over k, then across lanes (dot); over k (outer and plain). So any part of c,
// computed by any lane of a team, has the same bits.
#pragma once

#include <type_traits>

#include "gemm_panels.h"

namespace fastmaml::FM_ISA {

template <class Real>
void plain(const Product<Real>& p) {
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      Real sum = 0;
      Factors<Real> factors(p, i, j);
      do {
        for (int64_t e = 0; e < p.k; ++e) {
          sum = multiply_add(factors.a[e * p.a.col_stride], factors.b[e * p.b.row_stride], sum);
        }
      } while (factors.next());
      *at(p.c, i, j) = multiply_add(p.alpha, sum, *at(p.init, i, j));
    }
  }
}

// The lane's share of c: of its rows or of its columns, whichever are more.
template <class Real, class Tile>
Product<Real> share(const Product<Real>& p, int rank, int size) {
  constexpr int64_t width = Tile::column_width;
  const int64_t columns = ceil_div(p.n, width);
  if (p.m >= columns) {
    return slice(p, part(p.m, size, rank), {0, p.n});
  }
  const Range mine = part(columns, size, rank);
  return slice(p, {0, p.m}, {mine.begin * width, mine.end == columns ? p.n : mine.end * width});
}

template <class Real>
FM_INLINE View<Real> transposed(View<Real> view) {
  return {view.data, view.col_stride, view.row_stride};
}

// c^T = init^T + alpha * (b^T a^T + b'^T a'^T), the same product.
template <class Real>
FM_INLINE Product<Real> transposed(const Product<Real>& p) {
  return {p.n,
          p.m,
          p.k,
          p.alpha,
          transposed(p.b),
          transposed(p.a),
          transposed(p.init),
          transposed(p.c),
          p.b_more,
          p.a_more,
          p.ahead};
}

// Whether vectors can run along j.
template <class Real>
FM_INLINE bool outer_fits(const Product<Real>& p) {
  if (p.n == 1) return true;  // the strides along j do not matter
  const bool init = p.init.col_stride == 0 || p.init.col_stride == 1;
  return p.b.col_stride == 1 && p.c.col_stride == 1 && init;
}

// Whether they can run along i, in the mirror.
template <class Real>
FM_INLINE bool mirror_fits(const Product<Real>& p) {
  if (p.m == 1) return true;
  const bool init = p.init.row_stride == 0 || p.init.row_stride == 1;
  return p.a.row_stride == 1 && p.c.row_stride == 1 && init;
}

// The share of `count` lanes that do work.
template <class Real>
FM_INLINE double filled(int64_t count) {
  constexpr int width = Vec<Real>::width;
  return double(count) / double(ceil_div(count, width) * width);
}

// Dot tiles read all of a for every few columns of c. Where it lies far away, or all of b lies
// close, that is done for as many rows at a time as stay in the first-level cache.
template <class Real>
FM_INLINE bool rows_pay(const Product<Real>& p) {
  if (p.k * p.m > second_cache<Real>) return true;
  return p.k * p.m > 2 * cache<Real> && p.k * p.n <= second_cache<Real> / 4;
}

template <class Real>
void cover_in_rows(const Product<Real>& p) {
  constexpr int64_t tile = DotTile<Real>::rows_beside(DotTile<Real>::max_columns);
  const int64_t tiles = 2 * cache<Real> / (p.k * tile);
  const int64_t rows = tile * (tiles < 2 ? 2 : tiles);
  for (int64_t i = 0; i < p.m; i += rows) {
    cover<Real, DotTile<Real>>(slice(p, {i, i + rows < p.m ? i + rows : p.m}, {0, p.n}));
  }
}

// Whether c is the Gram matrix of several rows.
template <class Real>
FM_INLINE bool is_gram(const Product<Real>& p) {
  return p.b.data == p.a.data && p.b.col_stride == p.a.row_stride && p.n == p.m && p.m > 1 &&
         !p.a_more && p.init.row_stride == 0 && p.init.col_stride == 0;
}

// In strips as high as a tile, up to the diagonal: beyond it lie the same sums.
template <class Real>
void cover_gram(const Product<Real>& p, int rank, int size) {
  const Runs rows(p.m, DotTile<Real>::rows_beside(DotTile<Real>::max_columns));
  for (int64_t strip = 0, i = 0; i < p.m; i += rows[strip++]) {
    if (strip % size != rank) continue;
    const int64_t end = i + rows[strip];
    cover<Real, DotTile<Real>>(slice(p, {i, end}, {0, end}));
    for (int64_t r = i; r < end; ++r) {
      for (int64_t j = 0; j < i; ++j) *at(p.c, j, r) = *at(p.c, r, j);
    }
  }
}

// Outer tiles read a strip of b for every few rows of c: no deeper than stays in the cache.
constexpr int64_t most_depth = 384;

template <class Real, class Tile>
FM_INLINE void cover_share(const Product<Real>& whole, int rank, int size) {
  const Product<Real> p = size == 1 ? whole : share<Real, Tile>(whole, rank, size);
  if constexpr (std::is_same_v<Tile, DotTile<Real>>) {
    if (rows_pay(p)) return cover_in_rows(p);
    cover<Real, Tile>(p);
  } else if (copying_pays(whole)) {  // all lanes alike, or k would be cut elsewhere
    cover_in_panels(p);
  } else {
    const int64_t parts = p.k > most_depth ? ceil_div(p.k, most_depth) : 1;
    for (int64_t index = 0; index < parts; ++index) {
      cover<Real, Tile>(terms(p, part(p.k, parts, index)));
    }
  }
}

// Computes the part of c that falls to lane `rank` of `size`. init.data null means zero.
template <class Real>
void gemm(Product<Real> p, int rank, int size) {
  using Dot = DotTile<Real>;
  using Outer = OuterTile<Real>;
  const Real zero = 0;
  if (!p.init.data) p.init = {&zero, 0, 0};
  if (p.k > 1 && p.a.col_stride == 1 && p.b.row_stride == 1) {
    const bool c_fits = p.c.col_stride == 1 && (p.init.col_stride == 0 || p.init.col_stride == 1);
    if (c_fits && turning_pays(p)) {
      return cover_in_panels(size == 1 ? p : share<Real, Outer>(p, rank, size));
    }
    if (is_gram(p)) return cover_gram(p, rank, size);
    return cover_share<Real, Dot>(p, rank, size);
  }
  const bool fits = outer_fits(p), other_fits = mirror_fits(p);
  if (fits && !(other_fits && filled<Real>(p.m) > filled<Real>(p.n))) {
    cover_share<Real, Outer>(p, rank, size);
  } else if (other_fits) {
    cover_share<Real, Outer>(transposed(p), rank, size);
  } else {
    plain(size == 1 ? p : share<Real, Dot>(p, rank, size));
  }
}

}  // namespace fastmaml::FM_ISA
