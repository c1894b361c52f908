// Larger matrix products, out of panels: copies of what tiles read, in the order in which they do.
//
// Rows of c come in blocks and k in parts, so that what a block has of a and of c stays in the
// second-level cache; columns come in strips as wide as a tile. What a strip has of b is brought
// together in a panel, which stays in the first-level cache while the block's rows of a go by:
// turned around where b is contiguous along k, else copied. So is a where it is contiguous along i:
// its rows, often a power of two apart, would lie in a few sets of the cache. What comes next is
// fetched meanwhile, where it lies in one piece.
#pragma once

#include "gemm_cover.h"

namespace fastmaml::FM_ISA {

// How deep a part is, of the products of a sum together. With AVX-512, a strip so deep is 32 KB.
constexpr int64_t panel_depth = 128;
constexpr int64_t block_rows = 256;

// Up to this depth b is turned around however few rows there are.
constexpr int64_t shallow = 64;

// Whether to turn b around takes less time than to sum the lanes of dot tiles: the one is work for
// every element of b, which m rows share, the other for every element of c.
template <class Real>
FM_INLINE bool turning_pays(const Product<Real>& p) {
  if (p.n < Vec<Real>::width) return false;
  return p.k <= shallow || (p.m >= 32 && p.m * 5 >= p.k);
}

// Whether to copy b, contiguous along j, takes less time than to read it where it lies, a strip at
// a time: where it is large, and many rows share it.
template <class Real>
FM_INLINE bool copying_pays(const Product<Real>& p) {
  return p.m >= 64 && p.n > TileLimits::outer_vectors * Vec<Real>::width &&
         p.k * p.n >= second_cache<Real>;
}

// Brings `depth` rows of `count` numbers, each contiguous, to a panel with room for whole vectors.
template <class Real>
void copy(const Real* from, int64_t stride, int64_t depth, int64_t count, Real* panel,
          int64_t panel_stride) {
  using V = Vec<Real>;
  for (int64_t e = 0; e < depth; ++e, from += stride, panel += panel_stride) {
    int64_t j = 0;
    for (; j + V::width <= count; j += V::width) V::load(from + j).store(panel + j);
    if (j < count) V::load(from + j, static_cast<int>(count - j)).store(panel + j);
  }
}

// As `copy`, where the columns are contiguous.
template <class Real>
void turn(const Real* from, int64_t stride, int64_t depth, int64_t count, Real* panel,
          int64_t panel_stride) {
  using V = Vec<Real>;
  constexpr int width = V::width;
  for (int64_t j = 0; j < count; j += width) {
    for (int64_t e = 0; e < depth; e += width) {
      const int64_t columns = count - j, rest = depth - e;
      V block[width];
#pragma GCC unroll 16
      for (int s = 0; s < width; ++s) {
        const Real* column = from + (j + s) * stride + e;
        block[s] = s >= columns    ? V::zero()
                   : rest >= width ? V::load(column)
                                   : V::load(column, static_cast<int>(rest));
      }
      transpose<width / 2>(block);
#pragma GCC unroll 16
      for (int r = 0; r < width; ++r) {
        if (r < rest) block[r].store(panel + (e + r) * panel_stride + j);
      }
    }
  }
}

// What a part has of one factor, of both products of a sum.
template <class Real, int64_t most>
class Panel {
 public:
  // `how` is copy or turn, for a factor at `data`, and at `more` if that is not null.
  void bring(decltype(copy<Real>)* how, const Real*& data, const Real*& more, int64_t stride,
             int64_t depth, int64_t count, int64_t panel_stride) {
    how(data, stride, depth, count, numbers_, panel_stride);
    data = numbers_;
    if (!more) return;
    Real* rest = numbers_ + depth * panel_stride;
    how(more, stride, depth, count, rest, panel_stride);
    more = rest;
  }

 private:
  alignas(64) Real numbers_[panel_depth * most];
};

// What is fetched before long: pieces of memory, one after another.
class Upcoming {
 public:
  // `count` rows of `length` numbers, of both products, if they lie in one piece.
  template <class Real>
  void add(const Real* data, const Real* more, int64_t count, int64_t stride, int64_t length) {
    if (stride != length) return;
    add(data, count * stride);
    if (more) add(more, count * stride);
  }

  // A piece of which something is left; null if there is none.
  Ahead* next() {
    while (next_ < count_ && pieces_[next_].next >= pieces_[next_].end) ++next_;
    return next_ < count_ ? &pieces_[next_] : nullptr;
  }

 private:
  template <class Real>
  void add(const Real* from, int64_t numbers) {
    pieces_[count_++] = {reinterpret_cast<uintptr_t>(from),
                         reinterpret_cast<uintptr_t>(from + numbers)};
  }

  Ahead pieces_[4];  // of both factors
  int count_ = 0, next_ = 0;
};

// b contiguous along j, or along k; c along j.
template <class Real>
void cover_in_panels(const Product<Real>& p) {
  if (p.m == 0 || p.n == 0) return;
  using Tile = OuterTile<Real>;
  constexpr int64_t width = Tile::column_width;
  constexpr int64_t a_stride = block_rows + width;  // no power of two
  Panel<Real, Tile::max_columns * width> panel_of_b;
  Panel<Real, a_stride> panel_of_a;
  const auto bring_b = p.b.col_stride == 1 ? copy<Real> : turn<Real>;
  const int64_t b_stride = p.b.col_stride == 1 ? p.b.row_stride : p.b.col_stride;
  const bool copies_a = p.a.row_stride == 1 && p.a.col_stride != 1;

  const Runs blocks(p.m, block_rows), strips(ceil_div(p.n, width), Tile::columns_for(p.m));
  const int64_t parts = ceil_div(p.k, p.a_more ? panel_depth / 2 : panel_depth);
  for (int64_t b = 0, i = 0; i < p.m; i += blocks[b++]) {
    const Product<Real> block = slice(p, {i, i + blocks[b]}, {0, p.n});
    for (int64_t index = 0; index < parts; ++index) {
      Product<Real> deep = terms(block, part(p.k, parts, index));
      Upcoming upcoming;
      if (copies_a && index + 1 < parts) {
        const Product<Real> next = terms(block, part(p.k, parts, index + 1));
        upcoming.add(next.b.data, next.b_more, next.k, next.b.row_stride, next.n);
        upcoming.add(next.a.data, next.a_more, next.k, next.a.col_stride, next.m);
      } else if (!copies_a && index == 0 && i + block.m < p.m) {
        const Product<Real> next = slice(p, {i + block.m, i + block.m + blocks[b + 1]}, {0, p.n});
        upcoming.add(next.a.data, next.a_more, next.m, next.a.row_stride, next.k);
      }
      if (copies_a) {
        panel_of_a.bring(copy<Real>, deep.a.data, deep.a_more, p.a.col_stride, deep.k, deep.m,
                         a_stride);
        deep.a.col_stride = a_stride;
      }
      for (int64_t s = 0, j = 0; j < p.n; j += strips[s++] * width) {
        const int64_t end = j + strips[s] * width;
        Product<Real> strip = slice(deep, {0, deep.m}, {j, end < p.n ? end : p.n});
        const int64_t panel_stride = strips[s] * width;
        panel_of_b.bring(bring_b, strip.b.data, strip.b_more, b_stride, strip.k, strip.n,
                         panel_stride);
        strip.b.row_stride = panel_stride;
        strip.b.col_stride = 1;
        if (Ahead* ahead = upcoming.next()) strip.ahead = ahead;
        cover<Real, Tile>(strip);
      }
    }
  }
}

}  // namespace fastmaml::FM_ISA
