#include "workspace.h"

#include <algorithm>
#include <vector>

namespace fastmaml {

int64_t aligned(int64_t numbers) { return (numbers + 15) / 16 * 16; }

namespace {

// Places parts in fast memory while there is room, and in slow memory where there is not.
class Layout {
 public:
  explicit Layout(int64_t fast_memory) : fast_memory_(fast_memory) {}

  void add(int64_t& offset, int64_t numbers) {
    numbers = aligned(numbers);
    if (numbers <= fast_memory_ - fast_) {
      offset = fast_;
      fast_ += numbers;
    } else {
      offset = slow_;
      slow_ += numbers;
      in_slow_.push_back(&offset);
    }
  }

  // Slow parts' offsets begin where the fast memory ends, which is known last.
  void finish(Workspace& workspace) {
    for (int64_t* offset : in_slow_) *offset += fast_;
    workspace.fast_size = fast_;
    workspace.size = fast_ + slow_;
  }

 private:
  int64_t fast_memory_;
  int64_t fast_ = 0, slow_ = 0;
  std::vector<int64_t*> in_slow_;
};

template <class Real>
bool has_checkpoints(const Call<Real>& call) {
  return call.segment < call.steps;
}

// phi_K..phi_0: phi_K is in the first place in any case.
template <class Real>
Places places_of_phi(const Call<Real>& call) {
  if (has_checkpoints(call) && call.segment > 1) {
    return {call.segment, call.steps / call.segment + 1, call.segment - 1};
  }
  const bool keeps_all = call.keep_phi || has_checkpoints(call);
  return {1, keeps_all ? call.steps + 1 : std::min<int64_t>(call.steps + 1, 2), 0};
}

// s_K..s_1. Without momentum no step reads that of another, and no checkpoint needs one.
template <class Real>
Places places_of_states(const Call<Real>& call) {
  if (call.momentum == 0) return {1, call.keep_states ? call.segment : 1, 0};
  if (has_checkpoints(call) && call.segment > 1) {
    const int64_t between = call.segment - 1;
    const int64_t segments = (call.steps + call.segment - 1) / call.segment;
    return {call.segment, segments, call.keep_states ? between : std::min<int64_t>(between, 2)};
  }
  return {1, call.keep_states ? std::max<int64_t>(call.steps, 1) : 2, 0};
}

}  // namespace

template <class Real>
Workspace plan_workspace(const Call<Real>& call, int64_t fast_memory) {
  const Program& program = call.program;
  const int64_t n = call.support.x ? call.support.count : 0;
  const int64_t m = call.query.x ? call.query.count : 0;
  const int64_t support_fixed = program.support.fixed.of(n);
  const int64_t support_active = program.support.active.of(n);
  const int64_t query_fixed = program.query.fixed.of(m);
  const int64_t query_active = program.query.active.of(m);
  Workspace ws{};
  ws.phi_places = places_of_phi(call);
  ws.state_places = places_of_states(call);
  constexpr int64_t quad = 4;
  ws.phi_stride = (program.adapted_size + quad - 1) / quad * quad;
  ws.tape_steps = std::clamp<int64_t>(call.tape_steps, 1, call.segment);
  ws.tape_stride = 2 * aligned(support_active);

  // In the order in which fast memory is given away.
  Layout layout(fast_memory);
  const int64_t p = program.adapted_size;
  const bool adjoint = call.differentiate || call.vectors;
  const int64_t tangents = adjoint ? support_active : 0;
  layout.add(ws.sample_loss, m * program.tasks);
  layout.add(ws.dot, std::max(tangents, query_active));
  layout.add(ws.bar_dot, adjoint ? std::max(tangents, query_active) : 0);
  layout.add(ws.v, adjoint ? p : 0);
  layout.add(ws.r, adjoint && call.momentum != 0 ? p : 0);
  // u may lie where phi_K was, which the adjoint is done with before there is a u; but phi may be
  // in slow memory. Else, where no state is kept for the adjoint or at a checkpoint, its place is
  // free by then.
  const bool phi_is_free = fast_memory == INT64_MAX && !call.vectors;
  const bool states_are_free =
      !phi_is_free && !call.keep_states && !call.fuse_step && !has_checkpoints(call);
  if (!phi_is_free && !states_are_free) layout.add(ws.u, adjoint ? p : 0);
  const int64_t states = call.fuse_step ? 0 : ws.state_places.count() * p;
  const int64_t phi = ws.phi_places.count() * ws.phi_stride, tape = ws.tape_steps * ws.tape_stride;
  layout.add(ws.states, states);
  layout.add(ws.support_fixed, support_fixed);
  layout.add(ws.phi, phi);
  layout.add(ws.tape, tape);
  layout.add(ws.query_fixed, query_fixed);
  ws.fixed_bars_size = aligned(support_fixed) + aligned(query_fixed);
  layout.add(ws.fixed_bars, ws.fixed_bars_size);
  layout.finish(ws);
  ws.trajectory = states + phi + tape;

  ws.query_values = ws.dot;
  ws.query_bars = ws.bar_dot;
  ws.query_fixed_bar = ws.fixed_bars + aligned(support_fixed);
  if (phi_is_free) ws.u = ws.phi;
  if (states_are_free) ws.u = ws.states;
  return ws;
}

template Workspace plan_workspace(const Call<float>&, int64_t);
template Workspace plan_workspace(const Call<double>&, int64_t);

}  // namespace fastmaml
