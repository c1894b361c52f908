#include "lockstep_cost.h"

#include <algorithm>
#include <cmath>

namespace fastmaml {
namespace {

// Nanoseconds, by the bytes of a vector: AVX-512, AVX2, and the 128 bits of NEON and the portable
// code. Fitted to what bench/csrc/lockstep_bench.cpp measures.
struct Costs {
  // One task: a pass of an op, a multiply-add in whole vectors, a number, a weight.
  double pass, padded, number, weight;
  // A task in lockstep, the first of all tasks of a group; and what comes on top of a multiply-add
  // or a weight that has to come from beyond the first or the second cache.
  double group_pass, multiply_add, group_number, group_weight;
  double beyond_first, beyond_second, weight_beyond_second;
};

constexpr double first_cache = 32 << 10, second_cache = 2e6;
// Nanoseconds a byte: what a group drives out of the second cache, its caller has to fetch again.
constexpr double driven_out = 0.1;

constexpr Costs costs_of(int vector_bytes) {
  if (vector_bytes >= 64) {
    return {74, 0.0107, 0.20, 0.060, 42, 0.0033, 0.134, 0.059, 0.0090, 0.0015, 0.074};
  }
  if (vector_bytes >= 32) {
    return {61, 0.0177, 0.27, 0.069, 43, 0.0117, 0.203, 0.065, 0.0072, 0.0034, 0.089};
  }
  return {72, 0.0486, 0.42, 0.090, 74, 0.0363, 0.318, 0.075, 0.0120, 0.0137, 0.077};
}

double whole_vectors(double numbers, int width) { return std::ceil(numbers / width) * width; }

// The part of `bytes` that does not fit.
double beyond(double bytes, double cache) { return bytes > cache ? 1 - cache / bytes : 0; }

}  // namespace

template <class Real>
LockstepWork<Real>::LockstepWork(const Call<Real>& call, int width) {
  const Program& program = call.program;
  const double n = call.support.x ? call.support.count : 0, m = call.query.count, K = call.steps;
  double losses = 0;
  for (int64_t k = 0; k <= call.steps; ++k) losses += call.step_weights[k] != 0;
  losses = std::max(losses, 1.0);
  // Of products, one is each of those of a backward pass and of each tangent.
  const double products = 9 * K * n + 3 * losses * m;
  for (int32_t i = 0; i < program.op_count; ++i) {
    const Op& op = program.ops[i];
    passes += 4 * K + 3 * losses;
    if (op.kind != OpKind::linear) continue;
    const double in = op.in, out = op.out;
    const double by_rows = whole_vectors(out, width) * in,
                 by_columns = whole_vectors(in, width) * out;
    const double a_pass = op.rows * products / 3;
    multiply_adds += 3 * a_pass * in * out;
    padded += a_pass * (by_rows + by_columns + std::min(by_rows, by_columns));
  }
  const double frame = program.frame_sample[1];
  numbers = frame * (10 * K * n + 4 * losses * m);
  weights = program.adapted_size * (10 * K + 8);
  samples = program.values[0].sample_size * (n + m);
  const double bytes = width * sizeof(Real);
  frame_bytes = bytes * frame * std::max(n, m);
  group_bytes = bytes * (program.adapted_size * (K + 5) + frame * n * (2 * K + 2) + samples);
}

template <class Real>
bool lockstep_pays(const Call<Real>& call, int width, int cores, double saved) {
  const LockstepWork<Real> work(call, width);
  const Costs cost = costs_of(width * sizeof(Real));
  const double scale = sizeof(Real) / 4.0;  // of what was measured in float
  const double one =
      cost.pass * work.passes - 1e9 * saved +
      scale * (cost.padded * work.padded + cost.number * work.numbers + cost.weight * work.weights);
  const double first = beyond(work.frame_bytes, first_cache);
  const double second = beyond(work.group_bytes, second_cache);
  const double multiply_add =
      cost.multiply_add + cost.beyond_first * first + cost.beyond_second * second;
  const double group =
      cost.group_pass * work.passes +
      width * scale *
          (multiply_add * work.multiply_adds +
           cost.group_number * (work.numbers + 2 * work.samples) +
           (cost.group_weight + cost.weight_beyond_second * second) * work.weights);
  const double groups = std::ceil(double(call.tasks) / width);
  const double evicted = driven_out * std::min(work.group_bytes, second_cache);
  return std::ceil(groups / cores) * group + evicted < std::ceil(double(call.tasks) / cores) * one;
}

#define FM_INSTANTIATE(Real)          \
  template struct LockstepWork<Real>; \
  template bool lockstep_pays(const Call<Real>&, int, int, double);
FM_INSTANTIATE(float)
FM_INSTANTIATE(double)
#undef FM_INSTANTIATE

}  // namespace fastmaml
