// What a loss reads, and in what order: samples in blocks, feature by feature.
#pragma once

#include <cmath>
#include <cstdint>

#include "../team/team.h"

namespace fastmaml::FM_ISA {

// The samples that a loss reads, of one task or of those in lockstep.
template <class Real>
struct LossInputs {
  double label_smoothing;
  int64_t samples;
  int64_t features;
  const Real* prediction;  // [samples, features, tasks]
  const int64_t* labels;   // [samples, tasks], or
  const Real* target;      // [samples, features, tasks]
  const Real* weights;     // [samples, tasks]; null: 1 / samples

  FM_HD Real weight(int64_t i) const { return weights ? weights[i] : 1 / Real(samples); }
};

// Samples are taken in blocks of `size`, as many as the Team wants a lane to take at a time, and a
// block feature by feature: loops over its samples are vector code however few features there are.
// A block that is not full is filled up with its last sample, of which nothing is stored again. In
// lockstep, a block is one sample of every task.
template <class Number, int size, bool in_lockstep>
class Block {
 public:
  using Real = Number;
  // One feature of a block: predictions, targets and the predictions' tangents.
  struct Column {
    Real z[size], t[size], z_dot[size];
  };
  static constexpr int samples = size;

  const LossInputs<Real>& in;
  const Real* prediction_dot;  // null: no tangents
  int64_t first;
  int count;  // samples that are there

  FM_HD Block(const LossInputs<Real>& in, const Real* prediction_dot, int64_t index)
      : in(in), prediction_dot(prediction_dot), first(index * size), count(size) {
    if (!in_lockstep && in.samples - first < size) count = static_cast<int>(in.samples - first);
    if constexpr (most_kept > 0) {
      if (are_kept()) keep();
    }
  }

  FM_HD static int64_t blocks(int64_t samples) {
    return in_lockstep ? samples : (samples + size - 1) / size;
  }
  FM_HD static int64_t task(int j) { return in_lockstep ? j : 0; }

  FM_HD int64_t sample(int j) const { return first + (j < count ? j : count - 1); }
  FM_HD int64_t at(int j, int64_t c) const {
    return in_lockstep ? first * in.features + c * size + j : sample(j) * in.features + c;
  }

  // Of feature c: kept from the start, or loaded into `place`.
  FM_HD const Column& column(int64_t c, Column& place) const {
    if (are_kept()) return kept_[c];
    FM_VECTOR_LOOP
    for (int j = 0; j < size; ++j) load(j, c, place);
    return place;
  }

 private:
  // A loss passes through the features several times, and to bring together those of samples that
  // lie one behind the other takes longer than to compute with them. So few features are kept.
  static constexpr int most_kept = size > 1 && !in_lockstep ? 8 : 0;

  FM_HD bool are_kept() const { return in.features <= most_kept; }

  // What is the same for all samples is asked once: loops over them are vector code where they can.
  FM_HD void keep() {
    bring(in.prediction, &Column::z);
    if (in.labels) {
      int64_t labels[size];
      for (int j = 0; j < size; ++j) labels[j] = in.labels[sample(j)];
      keep_each(&Column::t, [&](int j, int64_t c) { return one_hot(labels[j], c); });
    } else {
      bring(in.target, &Column::t);
    }
    if (prediction_dot) {
      bring(prediction_dot, &Column::z_dot);
    } else {
      keep_each(&Column::z_dot, [](int, int64_t) { return Real(0); });
    }
  }

  using Part = Real (Column::*)[size];

  FM_HD void bring(const Real* from, Part to) {
    for (int j = 0; j < size; ++j) {
      const Real* row = from + sample(j) * in.features;
      for (int64_t c = 0; c < in.features; ++c) (kept_[c].*to)[j] = row[c];
    }
  }

  template <class F>
  FM_HD void keep_each(Part to, F f) {
    for (int64_t c = 0; c < in.features; ++c) {
      FM_VECTOR_LOOP
      for (int j = 0; j < size; ++j) (kept_[c].*to)[j] = f(j, c);
    }
  }

  FM_HD void load(int j, int64_t c, Column& column) const {
    const int64_t i = at(j, c);
    column.z[j] = in.prediction[i];
    column.t[j] = in.labels ? one_hot(in.labels[sample(j)], c) : in.target[i];
    column.z_dot[j] = prediction_dot ? prediction_dot[i] : 0;
  }

  // NaN for a label that is no class, which nobody may have looked for: on a GPU a look would wait.
  FM_HD Real one_hot(int64_t label, int64_t c) const {
    const bool is_class = static_cast<uint64_t>(label) < static_cast<uint64_t>(in.features);
    return label == c ? Real(1) : is_class ? Real(0) : Real(NAN);
  }

  Column kept_[most_kept > 0 ? most_kept : 1];
};

}  // namespace fastmaml::FM_ISA
