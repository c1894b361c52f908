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

#include "frame.h"
#include "scalar_math.h"

namespace fastmaml::FM_ISA {

// The samples that a loss reads, of one task.
template <class Real>
struct LossInputs {
  double label_smoothing;
  int64_t samples;
  int64_t features;
  const Real* prediction;  // [samples, features]
  const int64_t* labels;   // [samples], or
  const Real* target;      // [samples, features]
  const Real* weights;     // [samples]; null: 1 / samples

  FM_HD Real weight(int64_t i) const { return weights ? weights[i] : 1 / Real(samples); }
};

// Where a loss's gradients, or their tangents, go; null where not wanted.
template <class Real>
struct LossGradients {
  Real* prediction;
  bool add_prediction;  // add to `prediction`, or write it; the others are always added to
  Real* target;
  Real* weights;
};

// Samples are taken in blocks, and a block feature by feature: loops over its samples are vector
// code however few features there are.
constexpr int block_samples = 16;

// One feature of a block of samples: predictions, targets and the predictions' tangents.
template <class Real>
struct Column {
  Real z[block_samples], t[block_samples], z_dot[block_samples];
};

// Which samples a block has, and what they read.
template <class Real>
struct Block {
  const LossInputs<Real>& in;
  const Real* prediction_dot;  // null: no tangents
  int64_t first;
  int count;

  FM_HD Block(const LossInputs<Real>& in, const Real* prediction_dot, int64_t index)
      : in(in), prediction_dot(prediction_dot), first(index * block_samples) {
    const int64_t left = in.samples - first;
    count = left < block_samples ? static_cast<int>(left) : block_samples;
  }

  FM_HD int64_t at(int j, int64_t c) const { return (first + j) * in.features + c; }

  FM_HD void load(int64_t c, Column<Real>& column) const {
    for (int j = 0; j < count; ++j) column.z[j] = in.prediction[at(j, c)];
    if (in.labels) {
      for (int j = 0; j < count; ++j) column.t[j] = in.labels[first + j] == c ? Real(1) : Real(0);
    } else {
      for (int j = 0; j < count; ++j) column.t[j] = in.target[at(j, c)];
    }
    if (prediction_dot) {
      for (int j = 0; j < count; ++j) column.z_dot[j] = prediction_dot[at(j, c)];
    }
  }
};

// A kind of loss, of a block of samples. For sample j of it, in a column x of the F features:
//   term             l is their sum
//   z_slope, t_slope dl/dz, dl/dt
//   z_slope_dot, t_slope_dot   their tangents, from z'
template <class Real>
struct Mse {
  Real f;
  FM_HD explicit Mse(const Block<Real>& block) : f(Real(block.in.features)) {}
  FM_HD Real term(const Column<Real>& x, int j) const {
    return (x.z[j] - x.t[j]) * (x.z[j] - x.t[j]) / f;
  }
  FM_HD Real z_slope(const Column<Real>& x, int j) const { return 2 / f * (x.z[j] - x.t[j]); }
  FM_HD Real t_slope(const Column<Real>& x, int j) const { return -z_slope(x, j); }
  FM_HD Real z_slope_dot(const Column<Real>& x, int j) const { return 2 / f * x.z_dot[j]; }
  FM_HD Real t_slope_dot(const Column<Real>& x, int j) const { return -2 / f * x.z_dot[j]; }
};

template <class Real>
struct BceWithLogits {
  Real f;
  FM_HD explicit BceWithLogits(const Block<Real>& block) : f(Real(block.in.features)) {}
  FM_HD Real term(const Column<Real>& x, int j) const {
    const Real z = x.z[j], magnitude = z < 0 ? -z : z;
    return (scalar::max(z, Real(0)) - z * x.t[j] + scalar::log1p(scalar::exp(-magnitude))) / f;
  }
  FM_HD Real z_slope(const Column<Real>& x, int j) const {
    return (scalar::sigmoid(x.z[j]) - x.t[j]) / f;
  }
  FM_HD Real t_slope(const Column<Real>& x, int j) const { return -x.z[j] / f; }
  FM_HD Real z_slope_dot(const Column<Real>& x, int j) const {
    const Real p = scalar::sigmoid(x.z[j]);
    return p * (1 - p) / f * x.z_dot[j];
  }
  FM_HD Real t_slope_dot(const Column<Real>& x, int j) const { return -x.z_dot[j] / f; }
};

template <class Real>
struct CrossEntropy {
  Real kept, spread;               // of a target: 1 - s, and what each class gets, s / F
  Real largest[block_samples];     // of z
  Real log_sum[block_samples];     // log sum_c exp(z_c - largest)
  Real target_sum[block_samples];  // S
  Real mean_dot[block_samples];    // sum_c p_c z'_c

  FM_HD explicit CrossEntropy(const Block<Real>& block)
      : kept(1 - Real(block.in.label_smoothing)),
        spread(Real(block.in.label_smoothing) / Real(block.in.features)) {
    const int count = block.count;
    const int64_t features = block.in.features;
    for (int j = 0; j < count; ++j) largest[j] = block.in.prediction[block.at(j, 0)];
    for (int64_t c = 1; c < features; ++c) {
      for (int j = 0; j < count; ++j) {
        largest[j] = scalar::max(largest[j], block.in.prediction[block.at(j, c)]);
      }
    }
    Real sum[block_samples];
    for (int j = 0; j < count; ++j) sum[j] = target_sum[j] = mean_dot[j] = 0;
    for (int64_t c = 0; c < features; ++c) {
      Column<Real> x;
      block.load(c, x);
      Real e[block_samples];
      for (int j = 0; j < count; ++j) e[j] = scalar::exp(x.z[j] - largest[j]);
      for (int j = 0; j < count; ++j) {
        sum[j] += e[j];
        target_sum[j] += t(x, j);
      }
      if (!block.prediction_dot) continue;
      for (int j = 0; j < count; ++j) mean_dot[j] += e[j] * x.z_dot[j];
    }
    for (int j = 0; j < count; ++j) log_sum[j] = scalar::log(sum[j]);
    for (int j = 0; j < count; ++j) mean_dot[j] /= sum[j];
  }
  FM_HD Real t(const Column<Real>& x, int j) const { return kept * x.t[j] + spread; }
  // In this order no digits are lost where one class has nearly all the weight.
  FM_HD Real log_p(const Column<Real>& x, int j) const {
    return (x.z[j] - largest[j]) - log_sum[j];
  }

  // A class of no weight counts nothing, even where log p is -inf.
  FM_HD Real term(const Column<Real>& x, int j) const {
    return t(x, j) == 0 ? Real(0) : -t(x, j) * log_p(x, j);
  }
  FM_HD Real z_slope(const Column<Real>& x, int j) const {
    return target_sum[j] * scalar::exp(log_p(x, j)) - t(x, j);
  }
  FM_HD Real t_slope(const Column<Real>& x, int j) const { return -kept * log_p(x, j); }
  FM_HD Real z_slope_dot(const Column<Real>& x, int j) const {
    return target_sum[j] * scalar::exp(log_p(x, j)) * (x.z_dot[j] - mean_dot[j]);
  }
  FM_HD Real t_slope_dot(const Column<Real>& x, int j) const {
    return -kept * (x.z_dot[j] - mean_dot[j]);
  }
};

template <template <class> class Kind>
struct LossLayer {
  // sample_loss[i] = l_i
  template <class Team, class Real>
  static void forward(Team& team, const LossInputs<Real>& in, Real* sample_loss) {
    for_each_block<Team, Real>(team, in, nullptr,
                               [&](const Block<Real>& block, const Kind<Real>& kind) {
                                 Real sum[block_samples] = {};
                                 for (int64_t c = 0; c < in.features; ++c) {
                                   Column<Real> x;
                                   block.load(c, x);
                                   for (int j = 0; j < block.count; ++j) sum[j] += kind.term(x, j);
                                 }
                                 for (int j = 0; j < block.count; ++j)
                                   sample_loss[block.first + j] = sum[j];
                               });
  }

  // The gradients by all inputs, of `seed` times the loss.
  template <class Team, class Real>
  static void backward(Team& team, const LossInputs<Real>& in, Real seed,
                       const LossGradients<Real>& to) {
    for_each_block<Team, Real>(
        team, in, nullptr, [&](const Block<Real>& block, const Kind<Real>& kind) {
          gradients(
              block, seed, to, [&](const Column<Real>& x, int j) { return kind.term(x, j); },
              [&](const Column<Real>& x, int j) { return kind.z_slope(x, j); },
              [&](const Column<Real>& x, int j) { return kind.t_slope(x, j); });
        });
  }

  // The tangents of those gradients at seed 1, from the prediction's tangent.
  template <class Team, class Real>
  static void backward_jvp(Team& team, const LossInputs<Real>& in, const Real* prediction_dot,
                           const LossGradients<Real>& to) {
    for_each_block<Team, Real>(
        team, in, prediction_dot, [&](const Block<Real>& block, const Kind<Real>& kind) {
          gradients(
              block, Real(1), to,
              [&](const Column<Real>& x, int j) { return kind.z_slope(x, j) * x.z_dot[j]; },
              [&](const Column<Real>& x, int j) { return kind.z_slope_dot(x, j); },
              [&](const Column<Real>& x, int j) { return kind.t_slope_dot(x, j); });
        });
  }

 private:
  // visit(block, kind) for all samples, each block the work of one lane.
  template <class Team, class Real, class Visit>
  static void for_each_block(Team& team, const LossInputs<Real>& in, const Real* prediction_dot,
                             Visit visit) {
    team.rows((in.samples + block_samples - 1) / block_samples, [&](int64_t index) {
      const Block<Real> block(in, prediction_dot, index);
      visit(block, Kind<Real>(block));
    });
    team.sync();
  }

  // Adds `seed` times the three functions of every feature and sample to where they are wanted.
  template <class Real, class Weight, class Prediction, class Target>
  FM_HD static void gradients(const Block<Real>& block, Real seed, const LossGradients<Real>& to,
                              Weight of_weight, Prediction of_prediction, Target of_target) {
    const int count = block.count;
    Real w[block_samples], sum[block_samples] = {};
    for (int j = 0; j < count; ++j) w[j] = seed * block.in.weight(block.first + j);
    for (int64_t c = 0; c < block.in.features; ++c) {
      Column<Real> x;
      block.load(c, x);
      if (to.weights) {
        for (int j = 0; j < count; ++j) sum[j] += of_weight(x, j);
      }
      if (to.target) {
        for (int j = 0; j < count; ++j) to.target[block.at(j, c)] += w[j] * of_target(x, j);
      }
      if (to.prediction) {
        Real slope[block_samples];
        for (int j = 0; j < count; ++j) slope[j] = w[j] * of_prediction(x, j);
        for (int j = 0; j < count; ++j) {
          put(to.prediction + block.at(j, c), slope[j], to.add_prediction);
        }
      }
    }
    if (to.weights) {
      for (int j = 0; j < count; ++j) to.weights[block.first + j] += seed * sum[j];
    }
  }
};

// Calls visit with the layer of a kind of loss.
template <class Visitor>
FM_HD void with_loss(LossKind kind, Visitor visit) {
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
