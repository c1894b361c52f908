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
// to share the work, b is turned around and dot becomes outer. An element of c is summed in the
// same order whatever tile it falls in: lane by lane over k, then across lanes (dot); over k (outer
// and plain). So any part of c, computed by any lane of a team, has the same bits.
#pragma once

#include <type_traits>

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

// visit(product) for parts of k, none deeper than `most`, that add up in c. Where k is cut depends
// on k alone, so every element of c is summed in the same order.
template <class Real, class Visit>
void in_parts(const Product<Real>& whole, int64_t most, Visit visit) {
  const int64_t parts = whole.k > most ? ceil_div(whole.k, most) : 1;
  Product<Real> p = whole;
  for (int64_t index = 0; index < parts; ++index) {
    const Range depth = part(whole.k, parts, index);
    const int64_t a_step = depth.begin * p.a.col_stride, b_step = depth.begin * p.b.row_stride;
    p.k = depth.end - depth.begin;
    p.a.data = whole.a.data + a_step;
    p.b.data = whole.b.data + b_step;
    if (p.a_more) {
      p.a_more = whole.a_more + a_step;
      p.b_more = whole.b_more + b_step;
    }
    visit(p);
    p.init = {p.c.data, p.c.row_stride, p.c.col_stride};
  }
}

// Copies b, contiguous along k, to `panel`, contiguous along j and padded to whole vectors.
template <class Real>
void pack(const Product<Real>& p, View<const Real> b, Real* panel, int64_t panel_stride) {
  using V = Vec<Real>;
  constexpr int width = V::width;
  for (int64_t j = 0; j < p.n; j += width) {
    for (int64_t e = 0; e < p.k; e += width) {
      const int64_t columns = p.n - j, rest = p.k - e;
      V block[width];
#pragma GCC unroll 16
      for (int s = 0; s < width; ++s) {
        const Real* from = at(b, e, j + s);
        block[s] = s >= columns    ? V::zero()
                   : rest >= width ? V::load(from)
                                   : V::load(from, static_cast<int>(rest));
      }
      transpose<width / 2>(block);
#pragma GCC unroll 16
      for (int r = 0; r < width; ++r) {
        if (r < rest) block[r].store(panel + (e + r) * panel_stride + j);
      }
    }
  }
}

// Turned around, b is read in panels of this depth at most: as deep as pays beside what reading and
// writing c once more costs.
template <class Real>
constexpr int64_t pack_depth = sizeof(Real) == sizeof(float) ? 256 : 64;

// Up to this depth it is turned around however few rows there are.
constexpr int64_t shallow = 64;

// Whether to turn b around takes less time than to sum the lanes of dot tiles: the one is work for
// every element of b, which m rows share, the other for every element of c.
template <class Real>
FM_INLINE bool packing_pays(const Product<Real>& p) {
  if (p.n < Vec<Real>::width) return false;
  return p.k <= shallow || (p.m >= 32 && p.m * 5 >= p.k);
}

template <class Real>
void pack_and_cover(const Product<Real>& p) {
  constexpr int64_t columns = OuterTile<Real>::max_columns * Vec<Real>::width;
  Real panels[2][pack_depth<Real> * columns];
  for (int64_t j = 0; j < p.n; j += columns) {
    const Product<Real> strip = slice(p, {0, p.m}, {j, p.n - j < columns ? p.n : j + columns});
    in_parts(strip, pack_depth<Real>, [&](Product<Real> part) {
      pack(part, part.b, panels[0], columns);
      if (part.b_more) {
        pack(part, {part.b_more, part.b.row_stride, part.b.col_stride}, panels[1], columns);
        part.b_more = panels[1];
      }
      part.b = {panels[0], columns, 1};
      cover<Real, OuterTile<Real>>(part);
    });
  }
}

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
  } else {
    in_parts(p, most_depth, [](const Product<Real>& part) { cover<Real, Tile>(part); });
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
    if (c_fits && packing_pays(p)) {
      return pack_and_cover(size == 1 ? p : share<Real, Outer>(p, rank, size));
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
