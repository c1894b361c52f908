// The whole inner loop and its gradients on teams of several threads: nothing may race (under
// ThreadSanitizer), nothing may read what was not written (memory begins as NaN), and every team
// must find the same bits as one lane alone.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "inner_loop_case.h"

namespace {

using namespace fastmaml;

// Every number that a call reads or writes, after a team of `size` lanes has run it.
template <class Real>
std::vector<Real> run_team(int size, const char* loss, int64_t segment, int64_t tape_steps,
                           First first) {
  Case<Real> c(loss, first);
  Call<Real> call = c.owner().call();
  call.segment = segment;
  call.tape_steps = tape_steps;
  struct Team {
    const Call<Real>& call;
    Workspace workspace;
    int size;
    TeamShared shared;
    std::vector<Real> memory, summed;
  } team{call, plan_workspace(call), size, {}, {}, {}};
  team.memory.assign(team.workspace.size, std::numeric_limits<Real>::quiet_NaN());
  team.summed.assign(call.summed_size, Real(0));
  run_parallel(
      size,
      [](void* context, int rank) {
        Team& team = *static_cast<Team*>(context);
        for (int64_t task = 0; task < tasks; ++task) {
          kernels<Real>().run_task({rank, team.size, &team.shared}, team.call, team.workspace,
                                   team.memory.data(), team.summed.data(), task);
        }
      },
      &team);
  std::vector<Real> all = c.everything();
  all.insert(all.end(), team.summed.begin(), team.summed.end());
  return all;
}

template <class Real>
void check_loss(const char* loss, First first) {
  const std::vector<Real> alone = run_team<Real>(1, loss, steps, steps, first);
  for (const Real x : alone) CHECK(std::isfinite(x));
  const auto same = [&](const std::vector<Real>& other) {
    return std::memcmp(alone.data(), other.data(), alone.size() * sizeof(Real)) == 0;
  };
  for (const int size : {2, 3, 5}) CHECK(same(run_team<Real>(size, loss, steps, steps, first)));
  for (int64_t segment = 1; segment <= steps; ++segment) {
    for (int64_t tape_steps = 1; tape_steps <= segment; ++tape_steps) {
      CHECK(same(run_team<Real>(2, loss, segment, tape_steps, first)));
    }
  }
}

}  // namespace

int main() {
  for (const char* loss : {"mse", "cross_entropy", "bce_with_logits"}) {
    for (const First first : {First::fixed, First::dual, First::folded}) {
      check_loss<float>(loss, first);
      check_loss<double>(loss, first);
    }
  }
  return failed_checks != 0;
}
