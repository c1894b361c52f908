// The loss sum_i weight_i l_i as a layer with inputs (prediction z, target t, weight). Targets
// and weights have no tangent: nothing that is adapted reaches them.
//
//                  mse             cross_entropy        bce_with_logits
//   l              <(z - t)^2>     -sum_c t_c log p_c   <max(z, 0) - z t + log(1 + e^-|z|)>
//   dl/dz          2/F (z - t)     S p - t              1/F (sigmoid(z) - t)
//   dl/dt          -2/F (z - t)    -(1-s) log p         -z/F
//   (dl/dz)'       2/F z'          S p'                 1/F p (1-p) z'
//   (dl/dt)'       -2/F z'         -(1-s) (log p)'      -z'/F
//
// with F features and <.> their mean; p = softmax(z), S = sum_c t_c, (log p)' = z' - sum_c p_c z'_c
// and s the label smoothing, which is already in t.
#pragma once

#include <type_traits>

#include "frame.h"
#include "loss_block.h"
#include "scalar_math.h"

namespace fastmaml::FM_ISA {

// What a loss's gradients are multiplied by: factor * bar[task]; a bar that is null is 1.
template <class Real>
struct LossSeed {
  Real factor;
  const Real* bar;

  FM_HD Real operator()(int64_t task) const { return bar ? factor * bar[task] : factor; }
};

// Where a loss's gradients, or their tangents, go, each lying as what it is a gradient of; null
// where not wanted.
template <class Real>
struct LossGradients {
  Real* prediction;
  bool add_prediction;  // add to `prediction`, or write it; the others are always added to
  Real* target;
  Real* weights;
};

// A kind of loss, of a block of samples. For sample j of it, in a column x of the F features:
//   term             l is their sum
//   z_slope, t_slope dl/dz, dl/dt
//   z_slope_dot, t_slope_dot   their tangents, from z'
template <class Block>
struct Mse {
  using Real = typename Block::Real;
  using Column = typename Block::Column;
  Real f;
  FM_HD explicit Mse(const Block& block) : f(Real(block.in.features)) {}
  FM_HD Real term(const Column& x, int j) const {
    return (x.z[j] - x.t[j]) * (x.z[j] - x.t[j]) / f;
  }
  FM_HD Real z_slope(const Column& x, int j) const { return 2 / f * (x.z[j] - x.t[j]); }
  FM_HD Real t_slope(const Column& x, int j) const { return -z_slope(x, j); }
  FM_HD Real z_slope_dot(const Column& x, int j) const { return 2 / f * x.z_dot[j]; }
  FM_HD Real t_slope_dot(const Column& x, int j) const { return -2 / f * x.z_dot[j]; }
};

template <class Block>
struct BceWithLogits {
  using Real = typename Block::Real;
  using Column = typename Block::Column;
  Real f;
  FM_HD explicit BceWithLogits(const Block& block) : f(Real(block.in.features)) {}
  FM_HD Real term(const Column& x, int j) const {
    const Real z = x.z[j], magnitude = z < 0 ? -z : z;
    return (scalar::max(z, Real(0)) - z * x.t[j] + scalar::log1p(scalar::exp(-magnitude))) / f;
  }
  FM_HD Real z_slope(const Column& x, int j) const {
    return (scalar::sigmoid(x.z[j]) - x.t[j]) / f;
  }
  FM_HD Real t_slope(const Column& x, int j) const { return -x.z[j] / f; }
  FM_HD Real z_slope_dot(const Column& x, int j) const {
    const Real p = scalar::sigmoid(x.z[j]);
    return p * (1 - p) / f * x.z_dot[j];
  }
  FM_HD Real t_slope_dot(const Column& x, int j) const { return -x.z_dot[j] / f; }
};

template <class Block>
struct CrossEntropy {
  using Real = typename Block::Real;
  using Column = typename Block::Column;
  static constexpr int size = Block::samples;
  Real kept, spread;       // of a target: 1 - s, and what each class gets, s / F
  Real largest[size];      // of z
  Real largest_dot[size];  // its z'
  Real log_sum[size];      // log sum_c exp(z_c - largest)
  Real target_sum[size];   // S
  Real mean_dot[size];     // sum_c p_c (z'_c - largest_dot)

  FM_HD explicit CrossEntropy(const Block& block)
      : kept(1 - Real(block.in.label_smoothing)),
        spread(Real(block.in.label_smoothing) / Real(block.in.features)) {
    const int64_t features = block.in.features;
    Column place;
    const Column& x0 = block.column(0, place);
    FM_VECTOR_LOOP
    for (int j = 0; j < size; ++j) {
      largest[j] = x0.z[j];
      largest_dot[j] = x0.z_dot[j];
    }
    for (int64_t c = 1; c < features; ++c) {
      const Column& x = block.column(c, place);
      FM_VECTOR_LOOP
      for (int j = 0; j < size; ++j) {
        largest_dot[j] = x.z[j] > largest[j] ? x.z_dot[j] : largest_dot[j];
        largest[j] = scalar::max(largest[j], x.z[j]);
      }
    }
    Real sum[size];
    FM_VECTOR_LOOP
    for (int j = 0; j < size; ++j) sum[j] = target_sum[j] = mean_dot[j] = 0;
    for (int64_t c = 0; c < features; ++c) {
      const Column& x = block.column(c, place);
      FM_VECTOR_LOOP
      for (int j = 0; j < size; ++j) {
        const Real e = scalar::exp(x.z[j] - largest[j]);
        sum[j] += e;
        target_sum[j] += t(x, j);
        mean_dot[j] += e * (x.z_dot[j] - largest_dot[j]);
      }
    }
    FM_VECTOR_LOOP
    for (int j = 0; j < size; ++j) {
      log_sum[j] = scalar::log(sum[j]);
      mean_dot[j] /= sum[j];
    }
  }
  FM_HD Real t(const Column& x, int j) const { return kept * x.t[j] + spread; }
  // In this order no digits are lost where one class has nearly all the weight, nor in its tangent.
  FM_HD Real log_p(const Column& x, int j) const { return (x.z[j] - largest[j]) - log_sum[j]; }
  FM_HD Real log_p_dot(const Column& x, int j) const {
    return (x.z_dot[j] - largest_dot[j]) - mean_dot[j];
  }

  // A class of no weight counts nothing, even where log p is -inf.
  FM_HD Real term(const Column& x, int j) const {
    return t(x, j) == 0 ? Real(0) : -t(x, j) * log_p(x, j);
  }
  FM_HD Real z_slope(const Column& x, int j) const {
    return target_sum[j] * scalar::exp(log_p(x, j)) - t(x, j);
  }
  FM_HD Real t_slope(const Column& x, int j) const { return -kept * log_p(x, j); }
  FM_HD Real z_slope_dot(const Column& x, int j) const {
    return target_sum[j] * scalar::exp(log_p(x, j)) * log_p_dot(x, j);
  }
  FM_HD Real t_slope_dot(const Column& x, int j) const { return -kept * log_p_dot(x, j); }
};

template <template <class> class Kind>
struct LossLayer {
  // sample_loss[i] = l_i
  template <class Team, class Real>
  FM_DEVICE_KNOWN static void forward(Team& team, const LossInputs<Real>& in, Real* sample_loss) {
    for_each_block<Real>(team, in, nullptr, [&](const auto& block) {
      using Samples = std::remove_cvref_t<decltype(block)>;
      const Kind<Samples> kind(block);
      Real sum[Samples::samples] = {};
      for (int64_t c = 0; c < in.features; ++c) {
        typename Samples::Column place;
        const auto& x = block.column(c, place);
        FM_VECTOR_LOOP
        for (int j = 0; j < Samples::samples; ++j) sum[j] += kind.term(x, j);
      }
      for (int j = 0; j < block.count; ++j) sample_loss[block.first + j] = sum[j];
    });
  }

  // The gradients by all inputs, of `seed` times the loss.
  template <class Team, class Real>
  FM_DEVICE_KNOWN static void backward(Team& team, const LossInputs<Real>& in, LossSeed<Real> seed,
                                       const LossGradients<Real>& to) {
    for_each_block<Real>(team, in, nullptr, [&](const auto& block) {
      using Samples = std::remove_cvref_t<decltype(block)>;
      using Column = typename Samples::Column;
      const Kind<Samples> kind(block);
      gradients(
          block, seed, to, [&](const Column& x, int j) { return kind.term(x, j); },
          [&](const Column& x, int j) { return kind.z_slope(x, j); },
          [&](const Column& x, int j) { return kind.t_slope(x, j); });
    });
  }

  // The tangents of those gradients at seed 1, from the prediction's tangent.
  template <class Team, class Real>
  FM_DEVICE_KNOWN static void backward_jvp(Team& team, const LossInputs<Real>& in,
                                           const Real* prediction_dot,
                                           const LossGradients<Real>& to) {
    for_each_block<Real>(team, in, prediction_dot, [&](const auto& block) {
      using Samples = std::remove_cvref_t<decltype(block)>;
      using Column = typename Samples::Column;
      const Kind<Samples> kind(block);
      gradients(
          block, LossSeed<Real>{1, nullptr}, to,
          [&](const Column& x, int j) { return kind.z_slope(x, j) * x.z_dot[j]; },
          [&](const Column& x, int j) { return kind.z_slope_dot(x, j); },
          [&](const Column& x, int j) { return kind.t_slope_dot(x, j); });
    });
  }

 private:
  // visit(block) for all samples, each block the work of one lane.
  template <class Real, class Team, class Visit>
  FM_DEVICE static void for_each_block(Team& team, const LossInputs<Real>& in,
                                       const Real* prediction_dot, Visit visit) {
    if constexpr (Team::most_tasks > 1) {
      if (team.tasks() > 1) {
        return visit_all<Block<Real, Team::most_tasks, true>>(team, in, prediction_dot, visit);
      }
    }
    visit_all<Block<Real, Team::samples_a_lane, false>>(team, in, prediction_dot, visit);
  }

  template <class Samples, class Team, class Real, class Visit>
  FM_DEVICE static void visit_all(Team& team, const LossInputs<Real>& in,
                                  const Real* prediction_dot, Visit visit) {
    team.rows(Samples::blocks(in.samples),
              [&](int64_t index) { visit(Samples(in, prediction_dot, index)); });
    team.sync();
  }

  // Adds `seed` times the three functions of every feature and sample to where they are wanted.
  template <class Samples, class Real, class Weight, class Prediction, class Target>
  FM_HD static void gradients(const Samples& block, LossSeed<Real> seed,
                              const LossGradients<Real>& to, Weight of_weight,
                              Prediction of_prediction, Target of_target) {
    constexpr int size = Samples::samples;
    const int count = block.count;
    Real w[size], sum[size] = {};
    FM_VECTOR_LOOP
    for (int j = 0; j < size; ++j) {
      w[j] = seed(Samples::task(j)) * block.in.weight(block.sample(j));
    }
    for (int64_t c = 0; c < block.in.features; ++c) {
      typename Samples::Column place;
      const auto& x = block.column(c, place);
      if (to.weights) {
        FM_VECTOR_LOOP
        for (int j = 0; j < size; ++j) sum[j] += of_weight(x, j);
      }
      if (to.target) {
        for (int j = 0; j < count; ++j) to.target[block.at(j, c)] += w[j] * of_target(x, j);
      }
      if (to.prediction) {
        Real slope[size];
        FM_VECTOR_LOOP
        for (int j = 0; j < size; ++j) slope[j] = w[j] * of_prediction(x, j);
        for (int j = 0; j < count; ++j) {
          put(to.prediction + block.at(j, c), slope[j], to.add_prediction);
        }
      }
    }
    if (to.weights) {
      for (int j = 0; j < count; ++j) {
        to.weights[block.first + j] += seed(Samples::task(j)) * sum[j];
      }
    }
  }
};

// Calls visit with the layer of a kind of loss, which is a constant where the compiler knows it.
template <class Kind, class Visitor>
FM_HD void with_loss(Kind kind, Visitor visit) {
  switch (kind) {
    case LossKind::mse:
      return visit(LossLayer<Mse>{});
    case LossKind::cross_entropy:
      return visit(LossLayer<CrossEntropy>{});
    case LossKind::bce_with_logits:
      return visit(LossLayer<BceWithLogits>{});
    case LossKind::none:
      return;
  }
}

}  // namespace fastmaml::FM_ISA
