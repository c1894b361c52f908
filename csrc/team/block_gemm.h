// Matrix products by a thread block: c = init + alpha * (a b + a' b').
//
// The lanes lie over c as a lattice, each with a square tile of it in registers. Strips of a and b,
// some of k deep, are copied to scratch memory, where both lie contiguous along c's indices,
// however they lay before; the copy of the next strip runs while this one is multiplied. Where c
// has few elements and k is long, slices of the block take every n-th of k, and their sums are
// added last.
//
// An element of c is summed in an order that depends on the shape and on the number of lanes alone.
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

FM_HD int ceil_div(int a, int b) { return (a + b - 1) / b; }

// How the lanes of a block lie over c: `rows` times `columns` of them, `slices` times.
struct Lattice {
  int rows, columns, slices;
};

// That which covers c in the fewest rounds, each lane with `tile` rows and columns.
FM_HD Lattice lattice_over(int m, int n, int tile, int lanes, int slices) {
  Lattice best{0, 0, slices};
  int least = 0;
  for (int columns = 16; columns; columns = columns == 16 ? 32 : columns == 32 ? 8 : 0) {
    const int rows = lanes / slices / columns;
    if (rows == 0) continue;
    const int rounds = ceil_div(m, rows * tile) * ceil_div(n, columns * tile);
    if (least && rounds >= least) continue;
    least = rounds;
    best = {rows, columns, slices};
  }
  return best;
}

template <class Real, int count>
struct alignas(count * sizeof(Real) < 16 ? count * sizeof(Real) : 16) Pack {
  Real value[count];
};

template <class Real, class Lanes>
class BlockGemm {
 public:
  FM_HD explicit BlockGemm(Lanes& lanes) : lanes_(lanes) {}

  // As large a tile a lane as leaves half of the lanes something to do.
  FM_DEVICE_ONCE void run(const BlockProduct<Real>& p) {
    if (p.m == 0 || p.n == 0) return;
    const int lanes = lanes_.size(), elements = p.m * p.n;
    if (elements >= 8 * lanes) return cover<4>(p, lattice_over(p.m, p.n, 4, lanes, 1));
    if (elements >= 2 * lanes) return cover<2>(p, lattice_over(p.m, p.n, 2, lanes, 1));
    int slices = 1;
    while (2 * slices * least_slice <= lanes && 2 * slices * elements <= lanes &&
           2 * slices * 8 <= p.k) {
      slices *= 2;
    }
    cover<1>(p, lattice_over(p.m, p.n, 1, lanes, slices));
  }

 private:
  static constexpr int least_slice = 8;  // lanes
  static constexpr int padding = 4;      // so that strips that are turned meet fewer bank conflicts

  // A strip of both factors in scratch memory: a's element (i, e) at a[e * a_stride + i], likewise
  // b.
  struct Strip {
    Real *a, *b;
    int a_stride, b_stride;
  };

  template <int tile>
  FM_DEVICE_ONCE void cover(const BlockProduct<Real>& p, Lattice lattice) {
    const int height = lattice.rows * tile, width = lattice.columns * tile;
    const int a_stride = height + padding, b_stride = width + padding;
    // A strip as deep as k if there is room, else two of half the room.
    const int room = lanes_.scratch_size() / (a_stride + b_stride);
    const int products = p.a_more ? 2 : 1;
    const int depth = products == 1 && p.k <= room ? p.k : min_of(p.k, room / 2);
    const int strips = p.k ? ceil_div(p.k, depth) : 0;
    Real* scratch = lanes_.scratch();
    const int half = depth * (a_stride + b_stride);
    const auto strip = [&](int index) {
      Real* a = scratch + (index & 1) * half;
      return Strip{a, a + depth * a_stride, a_stride, b_stride};
    };
    const int lane = lanes_.rank();
    const int slice = lane / (lattice.rows * lattice.columns);
    const int in_slice = lane - slice * lattice.rows * lattice.columns;
    const int row = in_slice / lattice.columns, column = in_slice - row * lattice.columns;
    for (int i = 0; i < p.m; i += height) {
      for (int j = 0; j < p.n; j += width) {
        Real sums[tile][tile] = {};
        lanes_.sync();  // all have done with what was in scratch memory
        if (strips) stage(p, i, j, height, width, 0, strips, depth, strip(0));
        for (int s = 0; s < products * strips; ++s) {
          lanes_.wait_for_copies();
          lanes_.sync();
          if (s + 1 < products * strips) {
            stage(p, i, j, height, width, s + 1, strips, depth, strip(s + 1));
          }
          const int first = s % strips * depth;
          multiply<tile>(strip(s), row * tile, column * tile, slice, lattice.slices,
                         min_of(depth, p.k - first), sums);
        }
        if (lattice.slices > 1) {
          add_slices(sums[0][0], lattice.rows * lattice.columns, lattice.slices);
          if (slice > 0) continue;
        }
        finish<tile>(p, i + row * tile, j + column * tile, sums);
      }
    }
  }

  FM_HD static int min_of(int a, int b) { return a < b ? a : b; }

  // Begins to copy strip `index` of the rows from i and the columns from j.
  FM_HD void stage(const BlockProduct<Real>& p, int i, int j, int height, int width, int index,
                   int strips, int depth, Strip to) {
    const bool second = index >= strips;
    const int first = (second ? index - strips : index) * depth;
    const int count = min_of(depth, p.k - first);
    const Real* a = second ? p.a_more : p.a.data;
    const Real* b = second ? p.b_more : p.b.data;
    stage(a + i * p.a.row_stride + first * p.a.col_stride, p.a.row_stride, p.a.col_stride,
          min_of(height, p.m - i), count, to.a, to.a_stride);
    stage(b + j * p.b.col_stride + first * p.b.row_stride, p.b.col_stride, p.b.row_stride,
          min_of(width, p.n - j), count, to.b, to.b_stride);
  }

  // Of one factor: `breadth` elements along c and `count` along k, at these strides. Neighbouring
  // lanes copy what lies side by side in memory.
  FM_HD void stage(const Real* from, int64_t along_c, int64_t along_k, int breadth, int count,
                   Real* to, int stride) {
    constexpr int side = 16;
    const int fast = lanes_.rank() % side, slow = lanes_.rank() / side;
    const int step = lanes_.size() / side;
    if (along_k == 1) {
      for (int x = slow; x < breadth; x += step) {
        for (int e = fast; e < count; e += side) {
          lanes_.copy(from + x * along_c + e, to + e * stride + x);
        }
      }
    } else {
      for (int e = slow; e < count; e += step) {
        for (int x = fast; x < breadth; x += side) {
          lanes_.copy(from + x * along_c + e * along_k, to + e * stride + x);
        }
      }
    }
  }

  template <int tile>
  FM_HD static void multiply(Strip strip, int row, int column, int first, int step, int depth,
                             Real (&sums)[tile][tile]) {
    const Real* a = strip.a + first * strip.a_stride + row;
    const Real* b = strip.b + first * strip.b_stride + column;
    for (int e = first; e < depth; e += step) {
      const auto a_at = load<tile>(a), b_at = load<tile>(b);
      for (int r = 0; r < tile; ++r) {
        for (int s = 0; s < tile; ++s) sums[r][s] += a_at.value[r] * b_at.value[s];
      }
      a += step * strip.a_stride;
      b += step * strip.b_stride;
    }
  }

  template <int tile>
  FM_HD static Pack<Real, tile> load(const Real* from) {
    return *reinterpret_cast<const Pack<Real, tile>*>(from);
  }

  // The sum over slices, to the lanes of the first one.
  FM_HD void add_slices(Real& sum, int lanes, int slices) {
    Real* scratch = lanes_.scratch();
    const int rank = lanes_.rank();
    lanes_.sync();
    scratch[rank] = sum;
    lanes_.sync();
    if (rank >= lanes) return;
    for (int s = 1; s < slices; ++s) sum += scratch[s * lanes + rank];
  }

  template <int tile>
  FM_HD static void finish(const BlockProduct<Real>& p, int i, int j,
                           const Real (&sums)[tile][tile]) {
    for (int r = 0; r < tile; ++r) {
      if (i + r >= p.m) return;
      for (int s = 0; s < tile; ++s) {
        if (j + s >= p.n) break;
        const Real start =
            p.init.data ? p.init.data[(i + r) * p.init.row_stride + (j + s) * p.init.col_stride]
                        : Real(0);
        p.c.data[(i + r) * p.c.row_stride + (j + s) * p.c.col_stride] =
            start + p.alpha * sums[r][s];
      }
    }
  }

  Lanes& lanes_;
};

}  // namespace fastmaml::FM_ISA
