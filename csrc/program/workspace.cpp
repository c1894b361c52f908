#include "workspace.h"

#include <algorithm>

namespace fastmaml {
namespace {

// Parts begin on a cache line's boundary, for either type of number.
class Layout {
 public:
  int64_t add(int64_t numbers) {
    const int64_t begin = size_;
    size_ += (numbers + 15) / 16 * 16;
    return begin;
  }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
};

}  // namespace

template <class Real>
Workspace plan_workspace(const Call<Real>& call) {
  const Program& program = call.program;
  const int64_t n = call.support.x ? call.support.count : 0;
  const int64_t m = call.query.x ? call.query.count : 0;
  const auto fixed = [&](int64_t samples) {
    return samples ? program.frame_sample[0] * samples + program.frame_task[0] : 0;
  };
  const auto active = [&](int64_t samples) {
    return samples ? program.frame_sample[1] * samples + program.frame_task[1] : 0;
  };
  Workspace ws{};
  ws.phi_steps = call.keep_phi ? call.steps + 1 : std::min<int64_t>(call.steps + 1, 2);
  const int64_t last_states = call.momentum != 0 ? 2 : 1;
  ws.state_steps = std::max<int64_t>(call.keep_states ? call.steps : last_states, 1);
  ws.tape_steps = call.keep_tape ? std::max<int64_t>(call.steps, 1) : 1;
  ws.tape_stride = (active(n) + 15) / 16 * 32;

  Layout layout;
  const int64_t p = program.adapted_size;
  ws.phi = layout.add(ws.phi_steps * p);
  ws.states = layout.add(ws.state_steps * p);
  const bool adjoint = call.differentiate || call.vectors;
  ws.v = layout.add(adjoint ? p : 0);
  ws.r = layout.add(adjoint && call.momentum != 0 ? p : 0);
  // Where no state is kept for the adjoint, its place is free by then.
  ws.u = call.keep_states ? layout.add(adjoint ? p : 0) : ws.states;
  ws.support_fixed = layout.add(fixed(n));
  ws.query_fixed = layout.add(fixed(m));
  ws.fixed_bars = layout.add(fixed(n));
  ws.query_fixed_bar = layout.add(fixed(m));
  ws.tape = layout.add(ws.tape_steps * ws.tape_stride);
  const int64_t tangents = adjoint ? active(n) : 0;
  ws.dot = ws.query_values = layout.add(std::max(tangents, active(m)));
  ws.bar_dot = ws.query_bars = layout.add(adjoint ? std::max(tangents, active(m)) : 0);
  ws.sample_loss = layout.add(m);
  ws.size = layout.size();
  return ws;
}

template Workspace plan_workspace(const Call<float>&);
template Workspace plan_workspace(const Call<double>&);

}  // namespace fastmaml
