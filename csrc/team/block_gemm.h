// Matrix products by a thread block: c = init + alpha * (a b + a' b').
//
// Each lane holds a tile of 4 x 4 elements of c in registers. There are two ways:
//
//   direct   a lane reads its factors where they lie, 4 x 4 of each at a time. Where c has fewer
//   tiles
//            than there are lanes, slices of the block share k, and their sums are added last.
//   staged   where c and k are large: strips of a and b, some of k deep, are copied to scratch
//   memory,
//            where both lie contiguous along c's indices, however they lay before; the copy of the
//            next strip runs while this one is multiplied.
//
// An element of c is summed in an order that depends on the shape and on the number of lanes alone.
// A GPU divides and fetches instructions slowly: sizes are powers of two where they can be, and
// what is long stands here once.
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

FM_HD int min_of(int a, int b) { return a < b ? a : b; }

// a / b of numbers below 2^20, without the many instructions of whole numbers.
FM_HD int quotient(int a, int b) { return static_cast<int>(float(a) / float(b)); }

// The part of `all` things that falls to this block.
struct BlockPart {
  int first, count;

  template <class Lanes>
  FM_HD BlockPart(int all, const Lanes& lanes) : first(0), count(all) {
    if (lanes.blocks() == 1) return;
    const int each = (all + lanes.blocks() - 1) >> lanes.log_blocks();
    first = min_of(each * lanes.block(), all);
    count = min_of(each, all - first);
  }
};

constexpr int tile = 4;  // rows and columns of c that a lane holds

FM_HD int tiles_of(int count) { return (count + tile - 1) / tile; }

// Some numbers side by side, aligned for the longest loads.
template <class Real>
struct alignas(16) Pack {
  Real value[tile];
};

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
#pragma unroll
      for (int e = 0; e < tile; ++e) {
        Pack<Real> pack{};
        if (depth + e < k) pack = *reinterpret_cast<const Pack<Real>*>(from);
        for (int s = 0; s < tile; ++s) values[e][s] = pack.value[s];
        from += along_k;
      }
      return;
    }
#pragma unroll
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
class BlockGemm {
 public:
  FM_HD explicit BlockGemm(Lanes& lanes) : lanes_(lanes) {}

  FM_DEVICE void run(const BlockProduct<Real>& p) {
    if (p.m == 0 || p.n == 0) return;
    p.m >= least_staged&& p.n >= least_staged&& p.k >= tile* tile ? staged(p) : direct(p);
  }

 private:
  static constexpr int least_staged = 32;
  static constexpr int padding = 4;  // so that strips that are turned meet fewer bank conflicts

  // ---- direct -----------------------------------------------------------------------------

  FM_DEVICE_ONCE void direct(const BlockProduct<Real>& given) {
    const BlockProduct<Real> p = given;
    const Factor<Real> a(p.a.data, p.a_more, p.a.row_stride, p.a.col_stride, p.m, p.k);
    const Factor<Real> b(p.b.data, p.b_more, p.b.col_stride, p.b.row_stride, p.n, p.k);
    const int lanes = lanes_.size();
    const BlockPart mine(a.tiles * b.tiles, lanes_);
    const int tiles = mine.count;
    if (tiles == 0) return;
    const int steps = tiles_of(p.k), all_steps = p.a_more ? 2 * steps : steps;
    const int slices = 2 * tiles <= lanes ? min_of(quotient(lanes, tiles), all_steps) : 1;
    const int rank = lanes_.rank();
    const int slice = slices == 1 ? 0 : quotient(rank, tiles);
    // Row r of lane l's tile at pack r * lanes + l, where slices share k.
    Pack<Real>* const packs = reinterpret_cast<Pack<Real>*>(lanes_.scratch());
    if (slices > 1) lanes_.sync_block();  // all have done with what was in scratch memory
#pragma unroll 1
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
#pragma unroll 1
    for (int index = rank; index < tile * tiles; index += lanes) {
      const int r = quotient(index, tiles), t = index - r * tiles;
      Pack<Real> total = packs[r * lanes + t];
#pragma unroll 1
      for (int s = 1; s < slices; ++s) {
        const Pack<Real> more = packs[r * lanes + s * tiles + t];
        for (int i = 0; i < tile; ++i) total.value[i] += more.value[i];
      }
      const int row = quotient(mine.first + t, b.tiles);
      const int i = a.index(row, r);
      if (i < p.m) finish_row(p, i, b, mine.first + t - row * b.tiles, total.value);
    }
  }

  // sums += a b over every slices-th of the steps along k, four numbers each, from the slice's.
  FM_HD static void multiply(const Factor<Real>& a, int row, const Factor<Real>& b, int column,
                             int slice, int slices, int steps, int all_steps,
                             Real (&sums)[tile][tile]) {
#pragma unroll 1
    for (int step = slice; step < all_steps; step += slices) {
      const bool of_second = step >= steps;
      const int depth = (of_second ? step - steps : step) * tile;
      Real a_at[tile][tile], b_at[tile][tile];
      a.load(of_second, row, depth, a_at);
      b.load(of_second, column, depth, b_at);
#pragma unroll
      for (int e = 0; e < tile; ++e) add_outer(a_at[e], b_at[e], sums);
    }
  }

  FM_HD static void add_outer(const Real (&a)[tile], const Real (&b)[tile],
                              Real (&sums)[tile][tile]) {
    for (int r = 0; r < tile; ++r) {
      for (int s = 0; s < tile; ++s) sums[r][s] += a[r] * b[s];
    }
  }

  FM_HD static void finish(const BlockProduct<Real>& p, const Factor<Real>& a, int row,
                           const Factor<Real>& b, int column, const Real (&sums)[tile][tile]) {
#pragma unroll
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

  // ---- staged -----------------------------------------------------------------------------

  // The lanes lie over c as 2^log_rows rows of 2^log_columns.
  FM_DEVICE_ONCE void staged(const BlockProduct<Real>& given) {
    const BlockProduct<Real> p = given;
    const int log_lanes = lanes_.log_size();
    // Whichever covers c in the fewest rounds, a square one first: it copies the least.
    int log_columns = 0, rounds = 0;
#pragma unroll
    for (int choice = 0; choice < 3; ++choice) {
      const int columns = choice == 0 ? 4 : choice == 1 ? 5 : 3, rows = log_lanes - columns;
      if (rows < 0) continue;
      const int height = tile << rows, width = tile << columns;
      const int needed = ((p.m + height - 1) >> (rows + 2)) * ((p.n + width - 1) >> (columns + 2));
      if (rounds && needed >= rounds) continue;
      rounds = needed;
      log_columns = columns;
    }
    const int height = tile << (log_lanes - log_columns), width = tile << log_columns;
    const int a_stride = height + padding, b_stride = width + padding;
    const int depth = min_of(p.k, quotient(lanes_.scratch_size(), 2 * (a_stride + b_stride)));
    const int strips = quotient(p.k + depth - 1, depth), all = p.a_more ? 2 * strips : strips;
    const int buffer = depth * (a_stride + b_stride);
    Real* const scratch = lanes_.scratch();
    const int column = (lanes_.rank() & ((1 << log_columns) - 1)) * tile;
    const int row = (lanes_.rank() >> log_columns) * tile;
    int round = 0;  // the blocks take turns at them
#pragma unroll 1
    for (int i = 0; i < p.m; i += height) {
#pragma unroll 1
      for (int j = 0; j < p.n; j += width) {
        if ((round++ & (lanes_.blocks() - 1)) != lanes_.block()) continue;
        Real sums[tile][tile] = {};
        lanes_.sync_block();  // all have done with what was in scratch memory
                              // Strip s is on its way while strip s - 1 is multiplied.
#pragma unroll 1
        for (int s = 0, first = 0, before = 0; s <= all; ++s) {
          if (s < all) {
            stage(p, s >= strips, i, j, first, min_of(depth, p.k - first), height, width,
                  scratch + (s & 1) * buffer, depth * a_stride);
          }
          if (s > 0) {
            const Real* strip = scratch + ((s - 1) & 1) * buffer;
            multiply(strip + row, a_stride, strip + depth * a_stride + column, b_stride,
                     min_of(depth, p.k - before), sums);
          }
          lanes_.wait_for_copies();
          lanes_.sync_block();
          before = first;
          first = s + 1 == strips ? 0 : first + depth;
        }
        finish(p, i + row, j + column, sums);
      }
    }
  }

  // Begins to copy, of both factors, `count` elements along k from `first`, and so many rows of a
  // and columns of b. In scratch memory a's element (i, e) is at e * (height + padding) + i.
  FM_HD void stage(const BlockProduct<Real>& p, bool more, int i, int j, int first, int count,
                   int height, int width, Real* to, int to_b) {
#pragma unroll 1
    for (int factor = 0; factor < 2; ++factor) {
      const bool is_a = factor == 0;
      const Real* from = is_a ? (more ? p.a_more : p.a.data) : (more ? p.b_more : p.b.data);
      const int along_c = static_cast<int>(is_a ? p.a.row_stride : p.b.col_stride);
      const int along_k = static_cast<int>(is_a ? p.a.col_stride : p.b.row_stride);
      const int breadth = is_a ? min_of(height, p.m - i) : min_of(width, p.n - j);
      const int stride = (is_a ? height : width) + padding;
      from += int64_t{is_a ? i : j} * along_c + int64_t{first} * along_k;
      // Neighbouring lanes copy what lies side by side.
      const bool turn = along_k == 1;
      copy(from, turn ? 1 : along_c, turn ? along_c : along_k, turn ? count : breadth,
           turn ? breadth : count, is_a ? to : to + to_b, turn ? stride : 1, turn ? 1 : stride);
    }
  }

  // to[f * to_fast + s * to_slow] = from[f * fast + s * slow] for all f, s below their counts.
  FM_HD void copy(const Real* from, int fast, int slow, int fast_count, int slow_count, Real* to,
                  int to_fast, int to_slow) {
    constexpr int log_side = 4, side = 1 << log_side;
    const int lane_fast = lanes_.rank() & (side - 1), lane_slow = lanes_.rank() >> log_side;
    const int step = 1 << (lanes_.log_size() - log_side);
    from += lane_fast * fast + int64_t{lane_slow} * slow;
    to += lane_fast * to_fast + lane_slow * to_slow;
    const bool is_far = lanes_.is_far(from);
#pragma unroll 1
    for (int s = lane_slow; s < slow_count; s += step) {
      const Real* source = from;
      Real* target = to;
#pragma unroll 2
      for (int f = lane_fast; f < fast_count; f += side) {
        if (is_far) {
          lanes_.copy_far(source, target);
        } else {
          *target = *source;
        }
        source += side * fast;
        target += side * to_fast;
      }
      from += int64_t{step} * slow;
      to += step * to_slow;
    }
  }

  // sums += a b over one strip.
  FM_HD static void multiply(const Real* a, int a_stride, const Real* b, int b_stride, int depth,
                             Real (&sums)[tile][tile]) {
#pragma unroll 4
    for (int e = 0; e < depth; ++e) {
      const Pack<Real> a_at = *reinterpret_cast<const Pack<Real>*>(a);
      const Pack<Real> b_at = *reinterpret_cast<const Pack<Real>*>(b);
      add_outer(a_at.value, b_at.value, sums);
      a += a_stride;
      b += b_stride;
    }
  }

  FM_HD static void finish(const BlockProduct<Real>& p, int i, int j,
                           const Real (&sums)[tile][tile]) {
    const int rows = min_of(tile, p.m - i), columns = min_of(tile, p.n - j);
    Real start[tile][tile] = {};
    if (p.init.data) {
      const Real* from = p.init.data + i * p.init.row_stride + j * p.init.col_stride;
      for (int r = 0; r < tile; ++r) {
        for (int s = 0; s < tile; ++s) {
          if (r < rows && s < columns) {
            start[r][s] = from[r * p.init.row_stride + s * p.init.col_stride];
          }
        }
      }
    }
    Real* to = p.c.data + i * p.c.row_stride + j * p.c.col_stride;
    for (int r = 0; r < tile; ++r) {
      for (int s = 0; s < tile; ++s) {
        if (r < rows && s < columns) {
          to[r * p.c.row_stride + s * p.c.col_stride] = start[r][s] + p.alpha * sums[r][s];
        }
      }
    }
  }

  Lanes& lanes_;
};

}  // namespace fastmaml::FM_ISA
