// The workloads of bench/workloads.py that are chains of linear layers, as calls of the extension.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/executor.h"
#include "program/analysis.h"
#include "program/call_builder.h"

namespace fastmaml {

struct Workload {
  const char* name;
  std::vector<int64_t> widths;
  const char* activation;
  const char* loss;
  int64_t tasks, steps, support, query;
  float rate;
};

inline const std::vector<Workload> workloads = {
    {"sine", {1, 40, 40, 1}, "relu", "mse", 25, 1, 10, 10, 0.01f},
    {"sine5", {1, 40, 40, 1}, "relu", "mse", 25, 5, 10, 10, 0.01f},
    {"sine1k", {1, 40, 40, 1}, "relu", "mse", 1000, 5, 10, 10, 0.01f},
    {"regress200", {20, 64, 64, 6}, "tanh", "mse", 40, 1, 200, 200, 0.1f},
    {"anil", {640, 5}, "relu", "cross_entropy", 32, 5, 25, 75, 0.01f},
    {"anil1k", {640, 5}, "relu", "cross_entropy", 1000, 5, 25, 75, 0.01f},
    {"omnimlp", {784, 256, 128, 64, 64, 5}, "relu", "cross_entropy", 32, 5, 5, 75, 0.1f},
    {"siren", {2, 256, 256, 256, 256, 3}, "sin", "mse", 3, 2, 1024, 1024, 1e-4f},
};

// A call of a workload and the tensors that it reads and writes.
class Problem {
 public:
  explicit Problem(const Workload& w) : program_(program_of(w)) {
    call_.tasks = w.tasks;
    call_.steps = w.steps;
    call_.step_weights.assign(w.steps + 1, 0);
    call_.step_weights.back() = 1;
    const Ref rate = tensor(1, [&](auto&) { return w.rate; });
    for (size_t layer = 1; layer < w.widths.size(); ++layer) {
      const int64_t in = w.widths[layer - 1], out = w.widths[layer];
      const float bound = 1 / std::sqrt(float(in));
      for (const int64_t size : {out * in, out}) {
        call_.parameters.push_back({uniform(size, bound), false, zeros(size)});
        call_.rates.push_back({rate, 1, 1, 0});
      }
    }
    const int64_t out = w.widths.back();
    const bool classes = std::strcmp(w.loss, "cross_entropy") == 0;
    for (SamplesArgument* samples : {&call_.support, &call_.query}) {
      samples->count = samples == &call_.support ? w.support : w.query;
      const int64_t count = w.tasks * samples->count;
      samples->x = uniform(count * w.widths[0], 1);
      if (classes) {
        labels_.emplace_back();
        for (int64_t i = 0; i < count; ++i) labels_.back().push_back(i % out);
        samples->labels = refer(labels_.back().data(), count * sizeof(int64_t));
      } else {
        samples->target = uniform(count * out, 1);
      }
    }
    call_.task_loss = zeros(w.tasks);
    call_.prediction = zeros(w.tasks * w.query * out);
    call_.task_loss_bar = tensor(w.tasks, [&](auto&) { return 1.0f / w.tasks; });
    call_.differentiate = call_.through_steps = true;
  }

  const ProgramOwner& program() const { return program_; }
  const CallArgument& call() const { return call_; }
  const std::vector<Address>& addresses() const { return addresses_; }
  // The tensors behind the addresses from 1 on, and how many bytes each has.
  const std::vector<int64_t>& bytes() const { return bytes_; }

  void run(int threads) const {
    const CallOwner<float> owner(program_, call_, addresses_, 0);
    fastmaml::run(owner.call(), owner.summed(), RunPlan(owner.call(), threads));
  }

 private:
  static ProgramOwner program_of(const Workload& w) {
    std::vector<OpDescription> ops;
    std::vector<int64_t> values = {w.widths[0]};
    std::vector<SlotDescription> slots;
    const auto add = [&](const char* kind, int64_t in, int64_t out, int32_t weight) {
      const int32_t input = static_cast<int32_t>(values.size()) - 1;
      values.push_back(out);
      const int32_t bias = weight < 0 ? -1 : weight + 1;
      // the first attribute is read by sin alone
      ops.push_back({kind, {input, -1}, input + 1, {weight, bias}, 1, in, out, {1, 0}});
    };
    for (size_t layer = 1; layer < w.widths.size(); ++layer) {
      const int64_t in = w.widths[layer - 1], out = w.widths[layer];
      if (layer > 1) add(w.activation, in, in, -1);
      add("linear", in, out, static_cast<int32_t>(slots.size()));
      slots.push_back({in * out, true});
      slots.push_back({out, true});
    }
    const int32_t output = static_cast<int32_t>(values.size()) - 1;
    return ProgramOwner(ops, values, slots, output, w.loss, 0, false);
  }

  template <class F>
  Ref tensor(int64_t size, F number) {
    std::vector<float>& t = tensors_.emplace_back(size);
    for (float& x : t) x = number(random_);
    return refer(t.data(), size * sizeof(float));
  }
  Ref refer(const void* data, int64_t bytes) {
    addresses_.push_back(reinterpret_cast<Address>(data));
    bytes_.push_back(bytes);
    return static_cast<Ref>(addresses_.size()) - 1;
  }
  Ref zeros(int64_t size) {
    return tensor(size, [](auto&) { return 0.0f; });
  }
  Ref uniform(int64_t size, float bound) {
    return tensor(size, std::uniform_real_distribution<float>(-bound, bound));
  }

  ProgramOwner program_;
  CallArgument call_;
  std::vector<Address> addresses_ = {0};
  std::vector<int64_t> bytes_;
  std::vector<std::vector<float>> tensors_;
  std::vector<std::vector<int64_t>> labels_;
  std::mt19937 random_{1};
};

}  // namespace fastmaml
