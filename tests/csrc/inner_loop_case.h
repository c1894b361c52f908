// A call that has everything: what the tests of teams run, each on a team of its own kind.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "program/analysis.h"
#include "program/call_builder.h"

namespace fastmaml {

constexpr int64_t tasks = 2, steps = 3, support = 7, query = 5;

// A program under construction; every op reads the value that was written last.
struct Network {
  std::vector<OpDescription> ops;
  std::vector<int64_t> values;
  std::vector<SlotDescription> slots;

  int32_t last() const { return static_cast<int32_t>(values.size()) - 1; }
  int32_t slot(int64_t size, bool adapted) {
    slots.push_back({size, adapted});
    return static_cast<int32_t>(slots.size()) - 1;
  }
  void op(const char* kind, int64_t rows, int64_t in, int64_t out, int32_t weight = -1,
          int32_t bias = -1, double a = 0, double b = 0, int32_t other = -1) {
    const int32_t input = last();
    values.push_back(rows * out);
    ops.push_back({kind, {input, other}, last(), {weight, bias}, rows, in, out, {a, b}});
  }
};

// What the first layer does: not adapt, or adapt in the dual form, folded for the query or not.
enum class First { fixed, dual, folded };

// Every kind of op, shared and adapted slots, a tied slot, a skip connection and values that do not
// change from step to step.
Network every_op(First first) {
  Network net;
  net.values = {2 * 9};
  const int32_t weight = net.slot(20 * 9, false);
  net.op("linear", 2, 9, 20, weight, first == First::fixed ? net.slot(20, false) : -1);
  if (first != First::fixed) {
    constexpr int64_t rows = 2 * support;
    const Side side = first == First::folded ? Side::support : Side::both;
    const int32_t z = net.last(), k = z + 1, folded = z + 2, y = z + 3;
    const int32_t coefficients = net.slot(rows * 20, true), bias = net.slot(20, true);
    net.values.insert(net.values.end(), {2 * rows, 0, 2 * 20});
    net.ops.back().side = side;
    net.ops.push_back({"gram", {0, -1}, k, {-1, -1}, 2, 9, rows, {}, side});
    net.ops.push_back({"dual", {z, k}, y, {coefficients, bias}, 2, rows, 20, {}, side});
    if (first == First::folded) {
      const Side query = Side::query;
      net.ops.push_back({"fold", {-1, -1}, folded, {weight, coefficients}, 2, 9, 20, {}, query});
      net.ops.push_back({"folded", {0, folded}, y, {-1, bias}, 2, 9, 20, {}, query});
    }
  }
  net.op("tanh", 1, 40, 40);
  const int32_t square = net.slot(20 * 20, true), bias = net.slot(20, true);
  net.op("linear", 2, 20, 20, square, bias);
  net.op("layer_norm", 2, 20, 20, net.slot(20, true), net.slot(20, false), 1e-5);
  net.op("gelu", 1, 40, 40);
  const int32_t skip = net.last();
  net.op("linear", 2, 20, 20, square, bias);
  net.op("batch_norm", 20, 2, 2, net.slot(2, true), net.slot(2, true), 1e-5);
  net.op("dropout", 1, 40, 40, -1, -1, 0.25, 0);
  net.op("add", 1, 40, 40, -1, -1, 0, 0, skip);
  net.op("rms_norm", 2, 20, 20, net.slot(20, true), -1, 1e-5);
  net.op("linear", 1, 40, 70, net.slot(70 * 40, true), net.slot(70, true));
  net.op("batch_norm", 1, 70, 70, net.slot(70, true), net.slot(70, true), 1e-5);
  for (const char* kind : {"relu", "sigmoid", "silu", "gelu_tanh"}) net.op(kind, 1, 70, 70);
  net.op("leaky_relu", 1, 70, 70, -1, -1, 0.1);
  net.op("elu", 1, 70, 70, -1, -1, 1.0);
  net.op("softplus", 1, 70, 70, -1, -1, 1.0, 20.0);
  net.op("sin", 1, 70, 70, -1, -1, 2.0);
  net.op("scale", 1, 70, 70, -1, -1, 1.5);
  net.op("linear", 1, 70, 3, net.slot(3 * 70, true), net.slot(3, true));
  return net;
}

template <class Real>
class Tensors {
 public:
  Ref random(int64_t size, double scale, double offset = 0) {
    const Ref tensor = zeros(size);
    for (Real& x : tensors_.back()) x = Real(offset + scale * normal_(generator_));
    return tensor;
  }
  Ref zeros(int64_t size) { return refer(tensors_.emplace_back(size).data()); }
  Ref refer(const void* data) {
    addresses_.push_back(reinterpret_cast<Address>(data));
    return static_cast<Ref>(addresses_.size()) - 1;
  }

  const std::vector<Address>& addresses() const { return addresses_; }

  // All numbers of all tensors, in the order in which they were made.
  std::vector<Real> everything() const {
    std::vector<Real> all;
    for (const auto& tensor : tensors_) all.insert(all.end(), tensor.begin(), tensor.end());
    return all;
  }

 private:
  std::vector<std::vector<Real>> tensors_;
  std::vector<Address> addresses_ = {0};
  std::mt19937 generator_{1};
  std::normal_distribution<double> normal_;
};

template <class Real>
SamplesArgument make_samples(Tensors<Real>& tensors, int64_t count, int64_t in, int64_t out,
                             const std::vector<int64_t>* labels, bool wants_x) {
  SamplesArgument samples;
  samples.count = count;
  samples.size = {count, count - 2};
  samples.x = tensors.random(tasks * count * in, 1);
  samples.weights = tensors.random(tasks * count, 0.01, 1.0 / count);
  samples.x_grad = wants_x ? tensors.zeros(tasks * count * in) : 0;
  samples.weights_grad = tensors.zeros(tasks * count);
  if (labels) {
    samples.labels = tensors.refer(labels->data());
  } else {
    samples.target = tensors.random(tasks * count * out, 0.1, 0.5);
    samples.target_grad = tensors.zeros(tasks * count * out);
  }
  return samples;
}

// The call on every_op; its results are numbers of its tensors.
template <class Real>
class Case {
 public:
  Case(const char* loss, First first)
      : net_(every_op(first)),
        program_(net_.ops, net_.values, net_.slots, net_.last(), loss, 0, false) {
    const bool classes = std::strcmp(loss, "cross_entropy") == 0;
    Tensors<Real>& tensors = tensors_;
    CallArgument& a = argument_;
    const Network& net = net_;
    a.tasks = tasks;
    a.steps = steps;
    a.momentum = 0.5;
    a.step_weights = {0, 0.5, 0, 1};
    for (const SlotDescription& slot : net.slots) {
      const bool per_task = slot.adapted && slot.size == 70;
      const int64_t count = per_task ? tasks * slot.size : slot.size;
      a.parameters.push_back({tensors.random(count, 0.2), per_task, tensors.zeros(count)});
      const int64_t elements = slot.size == 20 ? 20 : 1;
      a.rates.push_back(
          {tensors.random(2 * elements, 0.01, 0.05), 2, elements, tensors.zeros(2 * elements)});
      a.adapted.push_back(slot.adapted ? tensors.zeros(tasks * slot.size) : 0);
      a.adapted_bar.push_back(slot.adapted ? tensors.random(tasks * slot.size, 0.1) : 0);
    }
    const std::vector<int64_t>* of_classes = classes ? &labels_ : nullptr;
    const bool wants_x = first == First::fixed;
    a.support = make_samples(tensors, support, net.values[0], 3, of_classes, wants_x);
    a.query = make_samples(tensors, query, net.values[0], 3, of_classes, wants_x);
    a.task_loss = tensors.zeros(tasks);
    a.prediction = tensors.zeros(tasks * query * 3);
    a.task_loss_bar = tensors.random(tasks, 1);
    a.prediction_bar = tensors.random(tasks * query * 3, 0.1);
    a.differentiate = a.through_steps = true;
    owner_ = std::make_unique<CallOwner<Real>>(program_, a, tensors.addresses(), 3);
  }

  const CallOwner<Real>& owner() const { return *owner_; }
  // All numbers that the call reads or writes, but for the summed gradients.
  std::vector<Real> everything() const { return tensors_.everything(); }

 private:
  Network net_;
  ProgramOwner program_;
  std::vector<int64_t> labels_ = std::vector<int64_t>(tasks * support, 1);
  Tensors<Real> tensors_;
  CallArgument argument_;
  std::unique_ptr<CallOwner<Real>> owner_;
};

}  // namespace fastmaml
