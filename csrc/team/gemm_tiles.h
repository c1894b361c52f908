// The tiles of the matrix products: what of c is held in registers while k runs (gemm.h).
#pragma once

#include "ahead.h"

namespace fastmaml::FM_ISA {

// c = init + alpha * (a b + a_more b_more), with a [m, k], b [k, n], init and c [m, n]. init may be
// c itself. a_more and b_more lie as a and b do, and are null where there is one product alone.
template <class Real>
struct Product {
  int64_t m, n, k;
  Real alpha;
  View<const Real> a, b, init;
  View<Real> c;
  const Real* a_more = nullptr;
  const Real* b_more = nullptr;
  Ahead* ahead = nullptr;  // what to fetch meanwhile
};

template <class Real>
FM_INLINE Real* at(View<Real> view, int64_t i, int64_t j) {
  return view.data + i * view.row_stride + j * view.col_stride;
}

// The starts of row i of a and of column j of b, of one product and then of the other.
template <class Real>
struct Factors {
  const Real *a, *b, *a_more, *b_more;

  FM_INLINE Factors(const Product<Real>& p, int64_t i, int64_t j)
      : a(at(p.a, i, 0)), b(at(p.b, 0, j)), a_more(p.a_more), b_more(p.b_more) {
    if (a_more) {
      a_more += a - p.a.data;
      b_more += b - p.b.data;
    }
  }
  FM_INLINE void move_down(int64_t rows, int64_t row_stride) {
    a += rows * row_stride;
    if (a_more) a_more += rows * row_stride;
  }
  FM_INLINE bool next() {
    if (!a_more) return false;
    a = a_more;
    b = b_more;
    a_more = nullptr;
    return true;
  }
};

// How large tiles may be whose sums, `sums` vectors of them at most, are in registers.
template <int sums, int most_rows, int most_columns>
struct TileShape {
  static constexpr int max_rows = most_rows, max_columns = most_columns;
  static constexpr int column_width = 1;
  static constexpr int rows_beside(int columns) {
    const int rows = sums / columns;
    return rows < max_rows ? rows : max_rows;
  }
  static int64_t columns_for(int64_t) { return max_columns; }
};

// A tile of rows x columns elements of c, a and b contiguous along k.
template <class Real>
struct DotTile : TileShape<TileLimits::dot_sums, 8, TileLimits::dot_columns> {
  template <int rows, int columns>
  static void run(const Product<Real>& p, int64_t i, int64_t j, int64_t count) {
    Factors<Real> factors(p, i, j);
    for (; count > 0; --count, i += rows) {
      tile<rows, columns>(p, factors, i, j);
      factors.move_down(rows, p.a.row_stride);
    }
  }

 private:
  template <int rows, int columns>
  FM_INLINE static void tile(const Product<Real>& p, Factors<Real> factors, int64_t i, int64_t j) {
    using V = Vec<Real>;
    const int64_t a_stride = p.a.row_stride, b_stride = p.b.col_stride, k = p.k;
    V acc[rows * columns];
#pragma GCC unroll 32
    for (int t = 0; t < rows * columns; ++t) acc[t] = V::zero();
    Fetcher<rows * columns> fetcher(p.ahead);
    do {
      const Real *a = factors.a, *b = factors.b;
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
      for (; e + V::width <= k; e += V::width) {
        step([e](const Real* row) FM_ALWAYS_INLINE { return V::load(row + e); });
        fetcher.step();
      }
      if (e < k) {
        const int rest = static_cast<int>(k - e);
        step([e, rest](const Real* row) FM_ALWAYS_INLINE { return V::load(row + e, rest); });
      }
    } while (factors.next());
    fetcher.finish();
    Real sums[rows * columns];
    sum_each<rows * columns>(acc, sums);
    const View<const Real> init = p.init;
    const View<Real> to = p.c;
    const Real alpha = p.alpha;
    auto finish = [&](int64_t init_stride, int64_t c_stride) FM_ALWAYS_INLINE {
      const Real* start = at(init, i, j);
      Real* c = at(to, i, j);
      for (int r = 0; r < rows; ++r, start += init.row_stride, c += to.row_stride) {
#pragma GCC ivdep
        for (int s = 0; s < columns; ++s) {
          c[s * c_stride] = multiply_add(alpha, sums[r * columns + s], start[s * init_stride]);
        }
      }
    };
    if (to.col_stride == 1 && init.col_stride == 1) {
      finish(1, 1);
    } else if (to.col_stride == 1 && init.col_stride == 0) {
      finish(0, 1);
    } else {
      finish(init.col_stride, to.col_stride);
    }
  }
};

// A tile of rows x columns vectors of c, b and c contiguous along j; the last vector of a row may
// be partial.
template <class Real>
struct OuterTile : TileShape<TileLimits::outer_sums, 12, TileLimits::outer_vectors_of_few_rows> {
  using Shape = TileShape<TileLimits::outer_sums, 12, TileLimits::outer_vectors_of_few_rows>;
  using Shape::max_columns, Shape::rows_beside;
  static constexpr int column_width = Vec<Real>::width;
  // Wide tiles where there are too few rows to fill the registers otherwise.
  static int64_t columns_for(int64_t rows) {
    constexpr int usual = TileLimits::outer_vectors;
    if (rows >= rows_beside(usual)) return usual;
    return rows <= rows_beside(max_columns) ? max_columns
           : rows <= rows_beside(usual + 1) ? usual + 1
                                            : usual;
  }

  template <int rows, int columns>
  static void run(const Product<Real>& p, int64_t i, int64_t j, int64_t count) {
    const int64_t rest = p.n - j - (columns - 1) * column_width;
    if (rest >= column_width) {
      run<rows, columns, false>(p, i, j, count, column_width);
    } else {
      run<rows, columns, true>(p, i, j, count, static_cast<int>(rest));
    }
  }

 private:
  template <int rows, int columns, bool partial>
  FM_INLINE static void run(const Product<Real>& p, int64_t i, int64_t j, int64_t count, int rest) {
    Factors<Real> factors(p, i, j);
    const Real* init = at(p.init, i, j);
    Real* c = at(p.c, i, j);
    for (; count > 0; --count) {
      tile<rows, columns, partial>(p, factors, init, c, rest);
      factors.move_down(rows, p.a.row_stride);
      init += rows * p.init.row_stride;
      c += rows * p.c.row_stride;
    }
  }

  template <int rows, int columns, bool partial>
  FM_INLINE static void tile(const Product<Real>& p, Factors<Real> factors, const Real* init,
                             Real* c, int rest) {
    using V = Vec<Real>;
    auto load = [rest](const Real* row, int s) FM_ALWAYS_INLINE {
      const Real* from = row + s * column_width;
      return partial && s == columns - 1 ? V::load(from, rest) : V::load(from);
    };
    const int64_t a_row = p.a.row_stride, a_col = p.a.col_stride, b_row = p.b.row_stride, k = p.k;
    V acc[rows][columns];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < columns; ++s) acc[r][s] = V::zero();
    }
    Fetcher<rows * columns> fetcher(p.ahead);
    do {
      const Real *a = factors.a, *b = factors.b;
      for (int64_t e = 0; e < k; ++e, a += a_col, b += b_row) {
        V b_at[columns];
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) b_at[s] = load(b, s);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const V a_at = V::broadcast(a[r * a_row]);
#pragma GCC unroll 8
          for (int s = 0; s < columns; ++s) acc[r][s] = fma(a_at, b_at[s], acc[r][s]);
        }
        fetcher.step();
      }
    } while (factors.next());
    fetcher.finish();
    const V alpha = V::broadcast(p.alpha);
    const int64_t init_row = p.init.row_stride, c_row = p.c.row_stride;
    auto finish = [&](auto start) FM_ALWAYS_INLINE {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r, init += init_row, c += c_row) {
#pragma GCC unroll 8
        for (int s = 0; s < columns; ++s) {
          const V result = fma(alpha, acc[r][s], start(s));
          if (partial && s == columns - 1) {
            result.store(c + s * column_width, rest);
          } else {
            result.store(c + s * column_width);
          }
        }
      }
    };
    if (p.init.col_stride == 0) {
      finish([&](int) FM_ALWAYS_INLINE { return V::broadcast(*init); });
    } else {
      finish([&](int s) FM_ALWAYS_INLINE { return load(init, s); });
    }
  }
};

// The instances of Tile::run by rows and columns, as many rows as fit beside the columns. Each
// computes a number of tiles, one below the other: a tile of a few samples takes no longer than it
// takes to begin.
template <class Real, class Tile>
struct TileTable {
  using Run = void (*)(const Product<Real>&, int64_t i, int64_t j, int64_t count);
  Run run[Tile::max_rows][Tile::max_columns];

  template <int rows = 1, int columns = 1>
  constexpr void fill() {
    run[rows - 1][columns - 1] = &Tile::template run<rows, columns>;
    if constexpr (rows < Tile::rows_beside(columns)) {
      fill<rows + 1, columns>();
    } else if constexpr (columns < Tile::max_columns) {
      fill<1, columns + 1>();
    }
  }
};

template <class Real, class Tile>
constexpr TileTable<Real, Tile> make_tiles() {
  TileTable<Real, Tile> tiles{};
  tiles.fill();
  return tiles;
}

}  // namespace fastmaml::FM_ISA
