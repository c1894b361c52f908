// The loss sum_i weight_i l_i as a layer with inputs (prediction z, target t, weight). Targets
// and weights have no tangent: nothing that is adapted reaches them.
//
//                       mse             cross_entropy                bce_with_logits
//   l                   <(z - t)^2>     -sum_c t_c log p_c           <max(z,0) - z t + log(1 +
//   e^-|z|)> dl/dz               2/F (z - t)     S p - t                      1/F (sigmoid(z) - t)
//   dl/dt               -2/F (z - t)    -(1-s) log p                 -z/F
//   (dl/dz)'            2/F z'          S p'                         1/F p (1-p) z'
//   (dl/dt)'            -2/F z'         -(1-s) (log p)'              -z'/F
//
// with F features and <.> their mean; p = softmax(z), S = sum_c t_c, (log p)' = z' - sum_c p_c z'_c
// and s the label smoothing, which is already in t. Every sample is the work of one lane.
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

// The terms of one sample's loss. Each kind below has, for feature c of F:
//   term             l is their sum
//   z_slope, t_slope dl/dz, dl/dt
//   z_slope_dot, t_slope_dot   their tangents, from z'
template <class Real>
struct MseSample {
  const Real *z, *t;
  Real f;
  FM_HD MseSample(const LossInputs<Real>& in, int64_t i, const Real*)
      : z(in.prediction + i * in.features), t(in.target + i * in.features), f(Real(in.features)) {}
  FM_HD Real term(int64_t c) const { return (z[c] - t[c]) * (z[c] - t[c]) / f; }
  FM_HD Real z_slope(int64_t c) const { return 2 / f * (z[c] - t[c]); }
  FM_HD Real t_slope(int64_t c) const { return -z_slope(c); }
  FM_HD Real z_slope_dot(int64_t, Real z_dot) const { return 2 / f * z_dot; }
  FM_HD Real t_slope_dot(int64_t, Real z_dot) const { return -2 / f * z_dot; }
};

template <class Real>
struct BceSample {
  const Real *z, *t;
  Real f;
  FM_HD BceSample(const LossInputs<Real>& in, int64_t i, const Real*)
      : z(in.prediction + i * in.features), t(in.target + i * in.features), f(Real(in.features)) {}
  FM_HD Real term(int64_t c) const {
    const Real magnitude = z[c] < 0 ? -z[c] : z[c];
    return (scalar::max(z[c], Real(0)) - z[c] * t[c] + scalar::log1p(scalar::exp(-magnitude))) / f;
  }
  FM_HD Real z_slope(int64_t c) const { return (scalar::sigmoid(z[c]) - t[c]) / f; }
  FM_HD Real t_slope(int64_t c) const { return -z[c] / f; }
  FM_HD Real z_slope_dot(int64_t c, Real z_dot) const {
    const Real p = scalar::sigmoid(z[c]);
    return p * (1 - p) / f * z_dot;
  }
  FM_HD Real t_slope_dot(int64_t, Real z_dot) const { return -z_dot / f; }
};

template <class Real>
struct CrossEntropySample {
  const LossInputs<Real>& in;
  const Real* z;
  int64_t i;
  Real largest;     // of z
  Real log_sum;     // log sum_c exp(z_c - largest)
  Real target_sum;  // S
  Real mean_dot;    // sum_c p_c z'_c

  FM_HD CrossEntropySample(const LossInputs<Real>& in, int64_t i, const Real* z_dot)
      : in(in), z(in.prediction + i * in.features), i(i), target_sum(0), mean_dot(0) {
    largest = z[0];
    for (int64_t c = 1; c < in.features; ++c) largest = scalar::max(largest, z[c]);
    Real sum = 0;
    for (int64_t c = 0; c < in.features; ++c) {
      const Real e = scalar::exp(z[c] - largest);
      sum += e;
      target_sum += t(c);
      if (z_dot) mean_dot += e * z_dot[c];
    }
    log_sum = scalar::log(sum);
    mean_dot /= sum;
  }
  FM_HD Real t(int64_t c) const {
    const Real plain = in.labels ? Real(in.labels[i] == c) : in.target[i * in.features + c];
    const Real s = Real(in.label_smoothing);
    return (1 - s) * plain + s / Real(in.features);
  }
  // In this order no digits are lost where one class has nearly all the weight.
  FM_HD Real log_p(int64_t c) const { return (z[c] - largest) - log_sum; }
  FM_HD Real kept() const { return 1 - Real(in.label_smoothing); }

  // A class of no weight counts nothing, even where log p is -inf.
  FM_HD Real term(int64_t c) const { return t(c) == 0 ? Real(0) : -t(c) * log_p(c); }
  FM_HD Real z_slope(int64_t c) const { return target_sum * scalar::exp(log_p(c)) - t(c); }
  FM_HD Real t_slope(int64_t c) const { return -kept() * log_p(c); }
  FM_HD Real z_slope_dot(int64_t c, Real z_dot) const {
    return target_sum * scalar::exp(log_p(c)) * (z_dot - mean_dot);
  }
  FM_HD Real t_slope_dot(int64_t, Real z_dot) const { return -kept() * (z_dot - mean_dot); }
};

template <template <class> class Sample>
struct LossLayer {
  // sample_loss[i] = l_i
  template <class Team, class Real>
  static void forward(Team& team, const LossInputs<Real>& in, Real* sample_loss) {
    team.rows(in.samples, [&](int64_t i) {
      const Sample<Real> sample(in, i, nullptr);
      Real sum = 0;
      for (int64_t c = 0; c < in.features; ++c) sum += sample.term(c);
      sample_loss[i] = sum;
    });
    team.sync();
  }

  // The gradients by all inputs, of `seed` times the loss.
  template <class Team, class Real>
  static void backward(Team& team, const LossInputs<Real>& in, Real seed,
                       const LossGradients<Real>& to) {
    team.rows(in.samples, [&](int64_t i) {
      const Sample<Real> sample(in, i, nullptr);
      const Real w = seed * in.weight(i);
      Real sum = 0;
      for (int64_t c = 0; c < in.features; ++c) {
        const int64_t j = i * in.features + c;
        if (to.weights) sum += sample.term(c);
        if (to.target) to.target[j] += w * sample.t_slope(c);
        if (to.prediction) put(to.prediction + j, w * sample.z_slope(c), to.add_prediction);
      }
      if (to.weights) to.weights[i] += seed * sum;
    });
    team.sync();
  }

  // The tangents of those gradients at seed 1, from the prediction's tangent.
  template <class Team, class Real>
  static void backward_jvp(Team& team, const LossInputs<Real>& in, const Real* prediction_dot,
                           const LossGradients<Real>& to) {
    team.rows(in.samples, [&](int64_t i) {
      const Real* z_dot = prediction_dot + i * in.features;
      const Sample<Real> sample(in, i, z_dot);
      const Real w = in.weight(i);
      Real sum = 0;
      for (int64_t c = 0; c < in.features; ++c) {
        const int64_t j = i * in.features + c;
        if (to.weights) sum += sample.z_slope(c) * z_dot[c];
        if (to.target) to.target[j] += w * sample.t_slope_dot(c, z_dot[c]);
        if (to.prediction) {
          put(to.prediction + j, w * sample.z_slope_dot(c, z_dot[c]), to.add_prediction);
        }
      }
      if (to.weights) to.weights[i] += sum;
    });
    team.sync();
  }
};

// Calls visit with the layer of a kind of loss.
template <class Visitor>
FM_HD void with_loss(LossKind kind, Visitor visit) {
  switch (kind) {
    case LossKind::mse:
      return visit(LossLayer<MseSample>{});
    case LossKind::cross_entropy:
      return visit(LossLayer<CrossEntropySample>{});
    case LossKind::bce_with_logits:
      return visit(LossLayer<BceSample>{});
    case LossKind::none:
      return;
  }
}

}  // namespace fastmaml::FM_ISA
