// The staged way of a product, where c and k are large: strips of a and b, some of k deep, are
// copied to scratch memory, where both lie contiguous along c's indices, however they lay before.
// The copy of the next strip runs while this one is multiplied.
#pragma once

#include "block_product.h"

namespace fastmaml::FM_ISA {

template <class Real, class Lanes>
class StagedProduct {
 public:
  FM_HD explicit StagedProduct(Lanes& lanes) : lanes_(lanes) {}

  // The lanes lie over c as 2^log_rows rows of 2^log_columns.
  FM_DEVICE_KNOWN void run(const BlockProduct<Real>& given) {
    const BlockProduct<Real> p = given;
    const int log_lanes = lanes_.log_size();
    // Whichever covers c in the fewest rounds, a square one first: it copies the least.
    int log_columns = 0, rounds = 0;
    FM_UNROLL(4)
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
    FM_UNROLL(1)
    for (int i = 0; i < p.m; i += height) {
      FM_UNROLL(1)
      for (int j = 0; j < p.n; j += width) {
        if ((round++ & (lanes_.blocks() - 1)) != lanes_.block()) continue;
        Real sums[tile][tile] = {};
        // All have done with what was in scratch memory. Strip s is on its way while strip s - 1 is
        // multiplied.
        lanes_.sync_block();
        FM_UNROLL(1)
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

 private:
  static constexpr int padding = 4;  // so that strips that are turned meet fewer bank conflicts

  // Begins to copy, of both factors, `count` elements along k from `first`, and so many rows of a
  // and columns of b. In scratch memory a's element (i, e) is at e * (height + padding) + i.
  FM_HD void stage(const BlockProduct<Real>& p, bool more, int i, int j, int first, int count,
                   int height, int width, Real* to, int to_b) {
    FM_UNROLL(1)
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
    FM_UNROLL(1)
    for (int s = lane_slow; s < slow_count; s += step) {
      const Real* source = from;
      Real* target = to;
      FM_UNROLL(2)
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
    FM_UNROLL(4)
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
