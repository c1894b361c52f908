// The direct way of a product: each lane reads its factors where they lie, 4 x 4 of each at a time.
// Where c has fewer tiles than there are lanes, slices of the block share k, and their sums are
// added last.
#pragma once

#include "block_product.h"

namespace fastmaml::FM_ISA {

// One factor as lanes read it: strides along c's index and along k, and how it is loaded.
template <class Real>
struct Factor {
  enum class Loads { along_k, along_c, single };

  const Real *first, *second;  // of the two products
  int along_c, along_k;
  int breadth, k;  // rows of a or columns of b; and how many numbers there are along k
  Loads loads;
  int tiles;

  FM_HD Factor(const Real* first, const Real* second, int64_t along_c, int64_t along_k, int breadth,
               int k)
      : first(first),
        second(second),
        along_c(static_cast<int>(along_c)),
        along_k(static_cast<int>(along_k)),
        breadth(breadth),
        k(k),
        loads(Loads::single),
        tiles(tiles_of(breadth)) {
    const size_t places = reinterpret_cast<size_t>(first) | reinterpret_cast<size_t>(second);
    if (places % 16 != 0) return;
    if (along_k == 1 && (along_c | k) % tile == 0) loads = Loads::along_k;
    if (along_c == 1 && (along_k | breadth) % tile == 0) loads = Loads::along_c;
  }

  // The index along c of number s of a tile: side by side where loads are, else as far apart as
  // there are tiles, so that neighbouring lanes read what lies side by side.
  FM_HD int index(int tile_index, int s) const {
    return loads == Loads::along_c ? tile * tile_index + s : tile_index + s * tiles;
  }

  // values[e][s], `e` from `depth` on; beyond k zero, beyond the breadth anything.
  FM_HD void load(bool of_second, int tile_index, int depth, Real (&values)[tile][tile]) const {
    const Real* from = of_second ? second : first;
    if (loads == Loads::along_c) {
      from += tile * tile_index + int64_t{depth} * along_k;
      FM_UNROLL(4)
      for (int e = 0; e < tile; ++e) {
        Pack<Real> pack{};
        if (depth + e < k) pack = *reinterpret_cast<const Pack<Real>*>(from);
        for (int s = 0; s < tile; ++s) values[e][s] = pack.value[s];
        from += along_k;
      }
      return;
    }
    FM_UNROLL(4)
    for (int s = 0; s < tile; ++s) {
      const Real* row = from + int64_t{min_of(index(tile_index, s), breadth - 1)} * along_c;
      if (loads == Loads::along_k) {
        const auto pack = *reinterpret_cast<const Pack<Real>*>(row + depth);
        for (int e = 0; e < tile; ++e) values[e][s] = pack.value[e];
      } else {
        for (int e = 0; e < tile; ++e) {
          values[e][s] = depth + e < k ? row[int64_t{depth + e} * along_k] : Real(0);
        }
      }
    }
  }
};

template <class Real, class Lanes>
class DirectProduct {
 public:
  FM_HD explicit DirectProduct(Lanes& lanes) : lanes_(lanes) {}

  FM_DEVICE_KNOWN void run(const BlockProduct<Real>& given) {
    const BlockProduct<Real> p = given;
    const Factor<Real> a(p.a.data, p.a_more, p.a.row_stride, p.a.col_stride, p.m, p.k);
    const Factor<Real> b(p.b.data, p.b_more, p.b.col_stride, p.b.row_stride, p.n, p.k);
    const int lanes = lanes_.size();
    const BlockPart mine(a.tiles * b.tiles, lanes_);
    const int tiles = mine.count;
    if (tiles == 0) return;
    const int steps = tiles_of(p.k), all_steps = p.a_more ? 2 * steps : steps;
    const bool is_shared = 2 * tiles <= lanes && all_steps > 1;
    const int slices = is_shared ? min_of(quotient(lanes, tiles), all_steps) : 1;
    const int rank = lanes_.rank();
    const int slice = slices == 1 ? 0 : quotient(rank, tiles);
    // Row r of lane l's tile at pack r * lanes + l, where slices share k.
    Pack<Real>* const packs = reinterpret_cast<Pack<Real>*>(lanes_.scratch());
    if (slices > 1) lanes_.sync_block();  // all have done with what was in scratch memory
    FM_UNROLL(1)
    for (int t = rank - slice * tiles; t < tiles; t += lanes) {
      const int row = quotient(mine.first + t, b.tiles);
      const int column = mine.first + t - row * b.tiles;
      Real sums[tile][tile] = {};
      if (slice < slices) multiply(a, row, b, column, slice, slices, steps, all_steps, sums);
      if (slices == 1) {
        finish(p, a, row, b, column, sums);
      } else {
        for (int r = 0; r < tile; ++r) {
          for (int s = 0; s < tile; ++s) packs[r * lanes + rank].value[s] = sums[r][s];
        }
        break;
      }
    }
    if (slices == 1) return;
    lanes_.sync_block();
    FM_UNROLL(1)
    for (int index = rank; index < tile * tiles; index += lanes) {
      const int r = quotient(index, tiles), t = index - r * tiles;
      Pack<Real> total = packs[r * lanes + t];
      FM_UNROLL(1)
      for (int s = 1; s < slices; ++s) {
        const Pack<Real> more = packs[r * lanes + s * tiles + t];
        for (int i = 0; i < tile; ++i) total.value[i] += more.value[i];
      }
      const int row = quotient(mine.first + t, b.tiles);
      const int i = a.index(row, r);
      if (i < p.m) finish_row(p, i, b, mine.first + t - row * b.tiles, total.value);
    }
  }

 private:
  // sums += a b over every slices-th of the steps along k, four numbers each, from the slice's.
  FM_HD static void multiply(const Factor<Real>& a, int row, const Factor<Real>& b, int column,
                             int slice, int slices, int steps, int all_steps,
                             Real (&sums)[tile][tile]) {
    FM_UNROLL(1)
    for (int step = slice; step < all_steps; step += slices) {
      const bool of_second = step >= steps;
      const int depth = (of_second ? step - steps : step) * tile;
      Real a_at[tile][tile], b_at[tile][tile];
      a.load(of_second, row, depth, a_at);
      b.load(of_second, column, depth, b_at);
      FM_UNROLL(4)
      for (int e = 0; e < tile; ++e) add_outer(a_at[e], b_at[e], sums);
    }
  }

  FM_HD static void finish(const BlockProduct<Real>& p, const Factor<Real>& a, int row,
                           const Factor<Real>& b, int column, const Real (&sums)[tile][tile]) {
    FM_UNROLL(4)
    for (int r = 0; r < tile; ++r) {
      const int i = a.index(row, r);
      if (i < p.m) finish_row(p, i, b, column, sums[r]);
    }
  }

  // Reads all that c starts from before it writes: a store would hold up the loads behind it.
  FM_HD static void finish_row(const BlockProduct<Real>& p, int i, const Factor<Real>& b,
                               int column, const Real (&sums)[tile]) {
    const Real* from = p.init.data ? p.init.data + i * p.init.row_stride : nullptr;
    Real* to = p.c.data + i * p.c.row_stride;
    Real start[tile] = {};
    if (from) {
      for (int s = 0; s < tile; ++s) {
        const int j = b.index(column, s);
        if (j < p.n) start[s] = from[j * p.init.col_stride];
      }
    }
    for (int s = 0; s < tile; ++s) {
      const int j = b.index(column, s);
      if (j < p.n) to[j * p.c.col_stride] = start[s] + p.alpha * sums[s];
    }
  }

  Lanes& lanes_;
};

}  // namespace fastmaml::FM_ISA
