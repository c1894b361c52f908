#include "lockstep_cost.h"

#include <algorithm>
#include <cmath>

namespace fastmaml {
namespace {

// Nanoseconds, by the bytes of a vector: AVX-512, AVX2, and the 128 bits of NEON and the portable
// code. Fitted to what bench/csrc/lockstep_bench.cpp measures.
struct Costs {
  // Of one task: a pass of an op, a multiply-add in whole vectors, a number, a weight, a sum over
  // the lanes of a vector; and what comes on top of a sample's number from beyond the first cache.
  struct {
    double pass, padded, number, weight, lane_sum, sample_beyond_first;
  } alone;
  // Of a task in lockstep, the first of all tasks of a group; and what comes on top of a
  // multiply-add, a weight or a sample's number that has to come from beyond the first or the
  // second cache.
  struct {
    double pass, multiply_add, number, weight, beyond_first, beyond_second, weight_beyond_second,
        sample_beyond_second;
  } group;
};

constexpr double first_cache = 32 << 10, second_cache = 2e6;
// Nanoseconds a byte: what a group drives out of the second cache, its caller has to fetch again.
constexpr double driven_out = 0.1;

constexpr Costs costs_of(int vector_bytes) {
  if (vector_bytes >= 64) {
    return {{97.8, 0.0115, 0.178, 0.0664, 1.78, 0.202},
            {55.9, 0.0044, 0.118, 0.0491, 0.00992, 0.00670, 0.0528, 0.155}};
  }
  if (vector_bytes >= 32) {
    return {{79.3, 0.0258, 0.095, 0.0694, 2.96, 0.157},
            {53.5, 0.0196, 0.130, 0.0568, 0.00632, 0.00312, 0.0681, 0.37}};
  }
  return {{82.4, 0.0720, 0.323, 0.0788, 0.04, 0.182},
          {65.4, 0.0560, 0.286, 0.0751, 0.00529, 0.00945, 0.0811, 0.37}};
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
  for (int32_t i = 0; i < program.op_count; ++i) {
    const Op& op = program.ops[i];
    passes += 4 * K + 3 * losses;
    if (op.kind != OpKind::linear) continue;
    const double in = op.in, out = op.out;
    // The output, the weight's gradient and the input's cotangent are a product each, and two in a
    // tangent; but one, and no cotangent, of a layer on the samples themselves.
    const bool is_active = program.values[op.input[0]].place == Place::active;
    const double each = op.rows * ((is_active ? 3 : 2) * K * n + losses * m);
    const int kinds = is_active ? 3 : 2;
    const double over_outputs = whole_vectors(out, width) * in,
                 over_inputs = whole_vectors(in, width) * out;
    multiply_adds += kinds * each * in * out;
    padded += each * (std::min(over_outputs, over_inputs) + (kinds - 1) * over_inputs);
    if (over_inputs < over_outputs) lane_sums += each * out;
  }
  const double frame = program.support.active.sample;
  numbers = frame * (10 * K * n + 4 * losses * m);
  weights = program.adapted_size * (10 * K + 8);
  const double sample = program.values[0].sample_size;
  samples = sample * (n + m);
  samples_read = sample * (4 * K * n + 2 * losses * m);
  const double bytes = width * sizeof(Real);
  frame_bytes = bytes * frame * std::max(n, m);
  samples_bytes = sizeof(Real) * sample * std::max(n, m);
  group_bytes = bytes * (program.adapted_size * (K + 2) + frame * n * (2 * K + 2) + samples);
}

template <class Real>
bool lockstep_pays(const Call<Real>& call, int width, int cores, double saved) {
  const LockstepWork<Real> work(call, width);
  const auto [alone, of_group] = costs_of(width * sizeof(Real));
  const double scale = sizeof(Real) / 4.0;  // of what was measured in float
  const double sample_read = alone.sample_beyond_first * beyond(work.samples_bytes, first_cache);
  const double one = alone.pass * work.passes - 1e9 * saved +
                     scale * (alone.padded * work.padded + alone.number * work.numbers +
                              alone.weight * work.weights + alone.lane_sum * work.lane_sums +
                              sample_read * work.samples_read);
  const double first = beyond(work.frame_bytes, first_cache);
  const double second = beyond(work.group_bytes, second_cache);
  const double multiply_add =
      of_group.multiply_add + of_group.beyond_first * first + of_group.beyond_second * second;
  const double weight = of_group.weight + of_group.weight_beyond_second * second;
  const double group =
      of_group.pass * work.passes +
      width * scale *
          (multiply_add * work.multiply_adds + of_group.number * (work.numbers + 2 * work.samples) +
           weight * work.weights + of_group.sample_beyond_second * second * work.samples_read);
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
