// The native program for one instruction set, which the build names by FM_ISA.
#include "kernels.h"

#include "../program/inner_loop.h"
#include "lockstep_group.h"

namespace fastmaml::FM_ISA {
namespace {

template <class Real>
using Team = TeamCpu<Real>;

template <class Real>
void run_task(const Lane& lane, const Call<Real>& call, const Workspace& workspace, Real* memory,
              Real* summed, int64_t task) {
  Team<Real> team(lane.rank, lane.size, lane.shared);
  InnerLoop<Team<Real>, Real>(team, call, workspace, {memory}, summed, task).run();
}

template <class Real>
void hessian_vector_product(const Lane& lane, const Call<Real>& call, const Workspace& workspace,
                            Real* memory, Real* summed, int64_t task) {
  Team<Real> team(lane.rank, lane.size, lane.shared);
  InnerLoop<Team<Real>, Real>(team, call, workspace, {memory}, summed, task)
      .hessian_vector_product();
}

template <class Real>
void run_group(const LockstepCall<Real>& call, const Workspace& workspace, Real* memory,
               TeamShared* shared, Real* summed, int64_t first, int64_t last) {
  LockstepGroup<Real>{call, first, last}.run(workspace, memory, shared, summed);
}

template <class Real>
void passes(const PassesCall<Real>& call) {
  Team<Real> team(0, 1, nullptr);
  Network<Team<Real>, Real> network(team, call.program, call.samples);
  const Draw draw{call.seed, call.task, call.pass};
  Real* x = const_cast<Real*>(call.x);  // frames hold mutable pointers; inputs are only read
  Real* x_dot = const_cast<Real*>(call.x_dot);
  const Frame<Real> values{x, nullptr, call.values}, dots{x_dot, nullptr, call.dots};
  const Frame<Real> bars{call.x_bar, nullptr, call.bars};
  const Frame<Real> bar_dots{call.x_bar_dot, nullptr, call.bar_dots};
  const Parameters<Real> w{call.w, nullptr, 0}, w_dot{call.w_dot, nullptr, 0};
  network.forward(Place::active, values, w, draw);
  network.backward(Place::active, values, bars, w,
                   {call.w_bar, call.w_bar, nullptr, 0, nullptr, 0, nullptr}, call.wanted, draw);
  network.forward_jvp(values, dots, w, w_dot, draw);
  network.backward_jvp(values, bars, dots, bar_dots, w, w_dot,
                       {call.w_bar_dot, call.w_bar_dot, nullptr, 0, nullptr, 0, nullptr},
                       call.wanted, draw);
}

template <class Real>
void loss_passes(const LossPassesCall<Real>& call) {
  Team<Real> team(0, 1, nullptr);
  const LossInputs<Real> in{call.label_smoothing, call.samples, call.features, call.prediction,
                            call.labels,          call.target,  call.weights};
  with_loss(call.kind, [&](auto layer) {
    layer.forward(team, in, call.sample_loss);
    layer.backward(team, in, {1, nullptr}, {call.prediction_bar, false, call.target_bar, nullptr});
    layer.backward_jvp(team, in, call.prediction_dot,
                       {call.prediction_bar_dot, false, call.target_bar_dot, call.sample_loss_dot});
  });
}

template <class Real>
constexpr Kernels<Real> table{
    run_task<Real>,  hessian_vector_product<Real>,  Vec<Real>::width, LockstepGroup<Real>::begin,
    run_group<Real>, LockstepGroup<Real>::add_sums, passes<Real>,     loss_passes<Real>};

}  // namespace

extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
constinit const Kernels<float> kernels_float = table<float>;
constinit const Kernels<double> kernels_double = table<double>;

}  // namespace fastmaml::FM_ISA
