// Small matrix products c = init + alpha * a b, out of the caches, without packing.
//
// The strides alone choose one of three ways through the product:
//
//   dot     a and b contiguous along k     (y = x w^T): vectors run along k, lanes are summed last
//   outer   b and c contiguous along j     (x_bar = y_bar w, w_bar = y_bar^T x): vectors run along
//           j, elements of a are broadcast; its mirror where a and c are contiguous along i
//   plain   any other strides, one element at a time
//
// Each way holds a tile of c in registers while k runs. An element of c is summed in the same
// order whatever tile it falls in: lane by lane over k, then across lanes (dot); over k (outer and
// plain). So any part of c, computed by anyone, has the same bits.
#pragma once

#include "simd.h"

namespace fastmaml::FM_ISA {

// a [m, k], b [k, n], init and c [m, n]; init may be c itself.
template <class Real>
struct Product {
  int64_t m, n, k;
  Real alpha;
  View<const Real> a, b, init;
  View<Real> c;
};

struct Range {
  int64_t begin, end;
};

// One of `parts` nearly equal parts of 0..count-1.
FM_INLINE Range part(int64_t count, int64_t parts, int64_t index) {
  return {count * index / parts, count * (index + 1) / parts};
}

FM_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Real>
FM_INLINE Real* at(View<Real> view, int64_t i, int64_t j) {
  return view.data + i * view.row_stride + j * view.col_stride;
}

// The rows and columns of c that are given.
template <class Real>
FM_INLINE Product<Real> slice(const Product<Real>& p, Range rows, Range columns) {
  auto from = [&](auto view) {
    view.data = at(view, rows.begin, columns.begin);
    return view;
  };
  Product<Real> result = p;
  result.m = rows.end - rows.begin;
  result.n = columns.end - columns.begin;
  result.a.data = at(p.a, rows.begin, 0);
  result.b.data = at(p.b, 0, columns.begin);
  result.init = from(p.init);
  result.c = from(p.c);
  return result;
}

// A tile of rows x columns elements of c.
template <class Real>
struct DotTile {
  static constexpr int max_rows = TileLimits::dot_rows, max_columns = TileLimits::dot_columns;
  static constexpr int column_width = 1;

  template <int rows, int columns>
  static void run(const Product<Real>& p, int64_t i, int64_t j) {
    using V = Vec<Real>;
    const Real* a = at(p.a, i, 0);
    const Real* b = at(p.b, 0, j);
    const int64_t a_stride = p.a.row_stride, b_stride = p.b.col_stride;
    V acc[rows * columns];
#pragma GCC unroll 32
    for (int t = 0; t < rows * columns; ++t) acc[t] = V::zero();
    auto step = [&](auto load) FM_ALWAYS_INLINE {
      V b_at[columns];
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) b_at[s] = load(b + s * b_stride);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const V a_at = load(a + r * a_stride);
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) {
          acc[r * columns + s] = fma(a_at, b_at[s], acc[r * columns + s]);
        }
      }
    };
    int64_t e = 0;
    for (; e + V::width <= p.k; e += V::width) {
      step([e](const Real* row) FM_ALWAYS_INLINE { return V::load(row + e); });
    }
    if (e < p.k) {
      const int rest = static_cast<int>(p.k - e);
      step([e, rest](const Real* row) FM_ALWAYS_INLINE { return V::load(row + e, rest); });
    }
    Real sums[rows * columns];
    sum_each<rows * columns>(acc, sums);
    auto finish = [&](int64_t init_stride, int64_t c_stride) FM_ALWAYS_INLINE {
      for (int r = 0; r < rows; ++r) {
        const Real* init = at(p.init, i + r, j);
        Real* c = at(p.c, i + r, j);
#pragma GCC ivdep
        for (int s = 0; s < columns; ++s) {
          c[s * c_stride] = multiply_add(p.alpha, sums[r * columns + s], init[s * init_stride]);
        }
      }
    };
    if (p.c.col_stride == 1 && p.init.col_stride == 1) {
      finish(1, 1);
    } else if (p.c.col_stride == 1 && p.init.col_stride == 0) {
      finish(0, 1);
    } else {
      finish(p.init.col_stride, p.c.col_stride);
    }
  }
};

// A tile of rows x columns vectors of c; the last vector of a row may be partial.
template <class Real>
struct OuterTile {
  static constexpr int max_rows = TileLimits::outer_rows, max_columns = TileLimits::outer_vectors;
  static constexpr int column_width = Vec<Real>::width;

  template <int rows, int columns>
  static void run(const Product<Real>& p, int64_t i, int64_t j) {
    const int64_t rest = p.n - j - (columns - 1) * column_width;
    if (rest >= column_width) {
      run<rows, columns, false>(p, i, j, column_width);
    } else {
      run<rows, columns, true>(p, i, j, static_cast<int>(rest));
    }
  }

 private:
  template <int rows, int columns, bool partial>
  FM_INLINE static void run(const Product<Real>& p, int64_t i, int64_t j, int rest) {
    using V = Vec<Real>;
    auto load = [rest](const Real* row, int s) FM_ALWAYS_INLINE {
      const Real* from = row + s * column_width;
      return partial && s == columns - 1 ? V::load(from, rest) : V::load(from);
    };
    const Real* a = at(p.a, i, 0);
    const Real* b = at(p.b, 0, j);
    const int64_t a_stride = p.a.row_stride;
    V acc[rows][columns];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) acc[r][s] = V::zero();
    }
    for (int64_t e = 0; e < p.k; ++e, a += p.a.col_stride, b += p.b.row_stride) {
      V b_at[columns];
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) b_at[s] = load(b, s);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const V a_at = V::broadcast(a[r * a_stride]);
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) acc[r][s] = fma(a_at, b_at[s], acc[r][s]);
      }
    }
    const V alpha = V::broadcast(p.alpha);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Real* init = at(p.init, i + r, j);
      Real* c = at(p.c, i + r, j);
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) {
        const V start = p.init.col_stride == 0 ? V::broadcast(*init) : load(init, s);
        const V result = fma(alpha, acc[r][s], start);
        if (partial && s == columns - 1) {
          result.store(c + s * column_width, rest);
        } else {
          result.store(c + s * column_width);
        }
      }
    }
  }
};

// The instances of Tile::run by rows and columns.
template <class Real, class Tile>
struct TileTable {
  using Run = void (*)(const Product<Real>&, int64_t, int64_t);
  Run run[Tile::max_rows][Tile::max_columns];

  template <int rows = 1, int columns = 1>
  constexpr void fill() {
    run[rows - 1][columns - 1] = &Tile::template run<rows, columns>;
    if constexpr (columns < Tile::max_columns) {
      fill<rows, columns + 1>();
    } else if constexpr (rows < Tile::max_rows) {
      fill<rows + 1, 1>();
    }
  }
};

template <class Real, class Tile>
constexpr TileTable<Real, Tile> make_tiles() {
  TileTable<Real, Tile> tiles{};
  tiles.fill();
  return tiles;
}

// 0..count-1 in runs of nearly equal size, none longer than `most`.
struct Runs {
  int64_t size;    // of the shorter runs
  int64_t longer;  // how many have one more; they come first

  Runs(int64_t count, int64_t most) {
    const int64_t runs = ceil_div(count, most);
    size = count / runs;
    longer = count - size * runs;
  }
  int64_t operator[](int64_t index) const { return size + (index < longer); }
};

// Covers c with tiles of nearly equal sizes.
template <class Real, class Tile>
void cover(const Product<Real>& p) {
  static constexpr auto tiles = make_tiles<Real, Tile>();
  constexpr int64_t cache = 16 * 1024;  // bytes of b that stay in the first-level cache
  constexpr int64_t width = Tile::column_width;
  if (p.m == 0 || p.n == 0) return;
  const int64_t all_columns = ceil_div(p.n, width);
  const Runs rows(p.m, Tile::max_rows), columns(all_columns, Tile::max_columns);
  if (p.k * p.n * static_cast<int64_t>(sizeof(Real)) <= cache) {
    for (int64_t r = 0, i = 0; i < p.m; i += rows[r++]) {
      for (int64_t s = 0, j = 0; j < all_columns; j += columns[s++]) {
        tiles.run[rows[r] - 1][columns[s] - 1](p, i, j * width);
      }
    }
  } else {
    for (int64_t s = 0, j = 0; j < all_columns; j += columns[s++]) {
      for (int64_t r = 0, i = 0; i < p.m; i += rows[r++]) {
        tiles.run[rows[r] - 1][columns[s] - 1](p, i, j * width);
      }
    }
  }
}

// Copies b, contiguous along k, to `panel`, contiguous along j and padded to whole vectors.
template <class Real>
void pack(const Product<Real>& p, Real* panel, int64_t panel_stride) {
  using V = Vec<Real>;
  constexpr int width = V::width;
  for (int64_t j = 0; j < p.n; j += width) {
    for (int64_t e = 0; e < p.k; e += width) {
      const int64_t columns = p.n - j, rest = p.k - e;
      V block[width];
#pragma GCC unroll 16
      for (int s = 0; s < width; ++s) {
        const Real* from = at(p.b, e, j + s);
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

// Where k is short, summing the lanes of dot tiles would take longer than turning b around.
constexpr int64_t pack_depth = 64;

template <class Real>
void pack_and_cover(const Product<Real>& p) {
  constexpr int64_t columns = OuterTile<Real>::max_columns * Vec<Real>::width;
  Real panel[pack_depth * columns];
  for (int64_t j = 0; j < p.n; j += columns) {
    Product<Real> part = slice(p, {0, p.m}, {j, p.n - j < columns ? p.n : j + columns});
    pack(part, panel, columns);
    part.b = {panel, columns, 1};
    cover<Real, OuterTile<Real>>(part);
  }
}

template <class Real>
void plain(const Product<Real>& p) {
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      Real sum = 0;
      for (int64_t e = 0; e < p.k; ++e) sum = multiply_add(*at(p.a, i, e), *at(p.b, e, j), sum);
      *at(p.c, i, j) = multiply_add(p.alpha, sum, *at(p.init, i, j));
    }
  }
}

// The lane's share of c: of its rows or of its columns, whichever makes more tiles.
template <class Real, class Tile>
Product<Real> share(const Product<Real>& p, int rank, int size) {
  if (size == 1) return p;
  constexpr int64_t width = Tile::column_width;
  const int64_t columns = ceil_div(p.n, width);
  if (ceil_div(p.m, Tile::max_rows) >= ceil_div(columns, Tile::max_columns)) {
    return slice(p, part(p.m, size, rank), {0, p.n});
  }
  const Range mine = part(columns, size, rank);
  return slice(p, {0, p.m}, {mine.begin * width, mine.end == columns ? p.n : mine.end * width});
}

template <class Real>
FM_INLINE View<Real> transposed(View<Real> view) {
  return {view.data, view.col_stride, view.row_stride};
}

// c^T = init^T + alpha * b^T a^T, the same product.
template <class Real>
FM_INLINE Product<Real> transposed(const Product<Real>& p) {
  return {p.n,
          p.m,
          p.k,
          p.alpha,
          transposed(p.b),
          transposed(p.a),
          transposed(p.init),
          transposed(p.c)};
}

// Whether vectors can run along j.
template <class Real>
FM_INLINE bool outer_fits(const Product<Real>& p) {
  if (p.n == 1) return true;  // the strides along j do not matter
  const bool init = p.init.col_stride == 0 || p.init.col_stride == 1;
  return p.b.col_stride == 1 && p.c.col_stride == 1 && init;
}

// The share of `count` lanes that do work.
template <class Real>
FM_INLINE double filled(int64_t count) {
  constexpr int width = Vec<Real>::width;
  return double(count) / double(ceil_div(count, width) * width);
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
    if (c_fits && p.k <= pack_depth && p.n >= Vec<Real>::width) {
      pack_and_cover(share<Real, Outer>(p, rank, size));
    } else {
      cover<Real, Dot>(share<Real, Dot>(p, rank, size));
    }
    return;
  }
  const Product<Real> mirror = transposed(p);
  const bool fits = outer_fits(p), mirror_fits = outer_fits(mirror);
  if (fits && !(mirror_fits && filled<Real>(p.m) > filled<Real>(p.n))) {
    cover<Real, Outer>(share<Real, Outer>(p, rank, size));
  } else if (mirror_fits) {
    cover<Real, Outer>(share<Real, Outer>(mirror, rank, size));
  } else {
    plain(share<Real, Dot>(p, rank, size));
  }
}

}  // namespace fastmaml::FM_ISA
