// The Team of a thread block on threads of the host: its products against plain loops, its other
// primitives, and the whole inner loop against the team of processor cores, all memory NaN at
// first.
#include <array>
#include <cmath>
#include <limits>

#include "buffer.h"
#include "check.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "cuda/image.h"
#include "host_lanes.h"
#include "inner_loop_case.h"
#include "program/inner_loop.h"

namespace fastmaml::FM_ISA {
namespace {

template <class Real>
constexpr Real nothing = std::numeric_limits<Real>::quiet_NaN();

template <class Real>
using Team = TeamBlock<Real, HostLanes<Real>>;

// f(team) on every lane of a number of blocks.
template <class Real, class F>
void on_blocks(int blocks, int lanes, int scratch_size, F f) {
  struct Context {
    HostCluster<Real> cluster;
    F* f;
  } context{{blocks, lanes, scratch_size}, &f};
  run_parallel(
      blocks * lanes,
      [](void* shared, int index) {
        Context& context = *static_cast<Context*>(shared);
        Team<Real> team{HostLanes<Real>(index, context.cluster)};
        (*context.f)(team);
      },
      &context);
}

template <class Real>
Real tolerance() {
  return sizeof(Real) == sizeof(float) ? Real(2e-4) : Real(1e-12);
}

struct Shape {
  int m, n, k;
};

template <class Real>
void check_product(int blocks, int lanes, Shape shape, bool a_along_k, bool b_along_k, bool is_sum,
                   bool has_bias) {
  const auto [m, n, k] = shape;
  Buffer<Real> a(m * k), b(k * n), a_more(m * k), b_more(k * n), bias(n), c(m * n);
  a.fill(1), b.fill(2), a_more.fill(3), b_more.fill(4), bias.fill(5);
  c.fill_with(nothing<Real>);
  const View<const Real> a_view{a.data(), a_along_k ? k : 1, a_along_k ? 1 : m};
  const View<const Real> b_view{b.data(), b_along_k ? 1 : n, b_along_k ? k : 1};
  const View<const Real> init{has_bias ? bias.data() : nullptr, 0, 1};
  on_blocks<Real>(blocks, lanes, 1024, [&](Team<Real>& team) {
    team.gemm(m, n, k, Real(0.5), a_view, b_view, init, View<Real>{c.data(), n, 1},
              is_sum ? a_more.data() : nullptr, is_sum ? b_more.data() : nullptr);
    team.sync();
  });
  bool right = true;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int e = 0; e < k; ++e) {
        const auto a_at = i * a_view.row_stride + e * a_view.col_stride;
        const auto b_at = e * b_view.row_stride + j * b_view.col_stride;
        sum += double(a[a_at]) * double(b[b_at]);
        if (is_sum) sum += double(a_more[a_at]) * double(b_more[b_at]);
      }
      const double expected = (has_bias ? double(bias[j]) : 0) + 0.5 * sum;
      right = right && std::fabs(double(c[i * n + j]) - expected) <= tolerance<Real>();
    }
  }
  CHECK(right);
}

template <class Real>
void check_products() {
  const Shape shapes[] = {{1, 1, 1}, {3, 2, 100}, {5, 5, 300},  {10, 40, 7}, {9, 33, 0},
                          {3, 2, 0}, {7, 1, 3},   {40, 40, 10}, {17, 70, 90}};
  for (const auto [blocks, lanes] : {std::array{1, 16}, {1, 32}, {2, 16}}) {
    int count = 0;
    for (const Shape& shape : shapes) {
      for (const bool a_along_k : {false, true}) {
        for (const bool b_along_k : {false, true}) {
          for (const bool is_sum : {false, true}) {
            check_product<Real>(blocks, lanes, shape, a_along_k, b_along_k, is_sum,
                                ++count % 3 != 0);
          }
        }
      }
    }
  }
}

// Sums over groups that are fewer than lanes, and more; every element of a map once.
template <class Real>
void check_others() {
  for (const int blocks : {1, 2})
    for (const int groups : {1, 3, 5, 40}) {
      for (const int count : {0, 1, 2, 9, 100}) {
        for (const Along along : {Along::group, Along::element}) {
          Buffer<Real> sums(2 * groups), seen(groups * count);
          sums.fill_with(nothing<Real>);
          seen.fill_with(Real(0));
          double total = 0;
          on_blocks<Real>(blocks, 16, 512, [&](Team<Real>& team) {
            team.template reduce<2>(
                along, groups, count,
                [](int64_t g, int64_t e) { return Terms<Real, 2>{{Real(g + 1), Real(e)}}; },
                [&](int64_t g, const Terms<Real, 2>& sum) {
                  sums[2 * g] = sum.value[0];
                  sums[2 * g + 1] = sum.value[1];
                });
            team.map(along, groups, count,
                     [&](int64_t g, int64_t e) { seen[g * count + e] += Real(1); });
            const double all = team.total(count, [](int64_t i) { return double(i); });
            if (team.rank() == 3) total = all;
            team.sync();
          });
          bool right = total == count * (count - 1) / 2;
          for (int g = 0; g < groups; ++g) {
            right = right && sums[2 * g] == Real((g + 1) * count);
            right = right && sums[2 * g + 1] == Real(count * (count - 1) / 2);
          }
          for (int64_t i = 0; i < seen.size(); ++i) right = right && seen[i] == Real(1);
          CHECK(right);
        }
      }
    }
}

// Every number that the call reads or writes, after a block has run it with so much fast memory,
// and with so many steps kept at a time.
template <class Real>
std::vector<Real> run_blocks(const char* loss, First first, int blocks, int lanes,
                             int64_t fast_memory, int64_t segment) {
  Case<Real> c(loss, first);
  std::vector<char> image;
  {
    Launch<Real> launch{};
    launch.call = c.owner().call();
    launch.call.segment = segment;
    launch.workspace = plan_workspace(launch.call, fast_memory);
    image = make_image(launch);
  }
  relocate<Real>(image.data());
  const Launch<Real>& launch = *reinterpret_cast<const Launch<Real>*>(image.data());
  const Call<Real>& call = launch.call;
  const Workspace& workspace = launch.workspace;
  std::vector<Real> fast(workspace.fast_size, nothing<Real>);
  std::vector<Real> slow(workspace.size - workspace.fast_size, nothing<Real>);
  std::vector<Real> summed(call.summed_size, Real(0));
  on_blocks<Real>(blocks, lanes, 1024, [&](Team<Real>& team) {
    for (int64_t task = 0; task < tasks; ++task) {
      InnerLoop<Team<Real>, Real>(team, call, workspace, {fast.data(), slow.data()}, summed.data(),
                                  task)
          .run();
    }
  });
  std::vector<Real> all = c.everything();
  all.insert(all.end(), summed.begin(), summed.end());
  return all;
}

// The same on one processor core.
template <class Real>
std::vector<Real> run_core(const char* loss, First first) {
  Case<Real> c(loss, first);
  const Call<Real>& call = c.owner().call();
  const Workspace workspace = plan_workspace(call);
  std::vector<Real> memory(workspace.size), summed(call.summed_size, Real(0));
  for (int64_t task = 0; task < tasks; ++task) {
    kernels<Real>().run_task({0, 1, nullptr}, call, workspace, memory.data(), summed.data(), task);
  }
  std::vector<Real> all = c.everything();
  all.insert(all.end(), summed.begin(), summed.end());
  return all;
}

template <class Real>
void check_inner_loop() {
  const double allowed = sizeof(Real) == sizeof(float) ? 2e-3 : 1e-10;
  constexpr const char* losses[] = {"mse", "cross_entropy", "bce_with_logits"};
  constexpr int64_t fast_memory[] = {0, 5000, 1 << 30};
  for (int i = 0; i < 9; ++i) {
    const char* loss = losses[i / 3];
    const First first = static_cast<First>(i % 3);
    const std::vector<Real> expected = run_core<Real>(loss, first);
    const std::vector<Real> got =
        run_blocks<Real>(loss, first, 1 + i % 2, 16, fast_memory[i / 3], 1 + (i / 3 + i) % steps);
    bool right = expected.size() == got.size();
    for (size_t j = 0; right && j < got.size(); ++j) {
      right = std::fabs(double(got[j]) - double(expected[j])) <=
              allowed * (1 + std::fabs(double(expected[j])));
    }
    CHECK(right);
  }
}

}  // namespace
}  // namespace fastmaml::FM_ISA

int main() {
  using namespace fastmaml::FM_ISA;
  check_products<float>();
  check_products<double>();
  check_others<float>();
  check_inner_loop<float>();
  check_inner_loop<double>();
  return failed_checks != 0;
}
