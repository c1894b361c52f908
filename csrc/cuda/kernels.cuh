// The kernels: tasks in chunks, a chunk the work of one block or of one cluster of them; then the
// sums over chunks.
#pragma once

#include <cmath>

#include "../program/inner_loop.h"
#include "device_lanes.cuh"
#include "launch.h"

namespace fastmaml::FM_ISA {

// Lanes a block at most: a lane may then have 128 registers.
constexpr int most_lanes = 512;

template <class Team, class Real>
__device__ void fill(Team& team, int64_t count, Real* to, Real value) {
  team.write(count, to, [=](int64_t) { return value; });
}

// All chunks of this block's team. Shared memory: scratch memory of that many numbers, the image,
// and the fast memory of a task.
template <class Real>
__device__ __noinline__ void run_block(const char* image, int image_size, int scratch_size) {
  char* copy = reinterpret_cast<char*>(shared_memory) + scratch_size * sizeof(Real);
  const int4* from = reinterpret_cast<const int4*>(image);
  for (int i = threadIdx.x; i < image_size / 16; i += blockDim.x) {
    reinterpret_cast<int4*>(copy)[i] = from[i];
  }
  __syncthreads();
  if (threadIdx.x == 0) relocate<Real>(copy);
  __syncthreads();
  const Launch<Real>& launch = *reinterpret_cast<const Launch<Real>*>(copy);
#ifndef FM_COMPILED
  const Call<Real>& call = launch.call;
  const Workspace& workspace = launch.workspace;
#else
  Call<Real> call = launch.call;
  Workspace workspace = launch.workspace;
  known::tell(call, workspace);
#endif
  const int team_index = blockIdx.x >> launch.log_blocks;
  const int teams = gridDim.x >> launch.log_blocks;
  const int block = blockIdx.x & ((1 << launch.log_blocks) - 1);
  const TaskMemory<Real> memory{reinterpret_cast<Real*>(copy + image_size),
                                launch.slow + team_index * launch.slow_stride};
  using Team = TeamBlock<Real, DeviceLanes<Real>>;
  const LaneSizes sizes{launch.log_lanes, launch.log_blocks, scratch_size};
  Team team{DeviceLanes<Real>(sizes, block)};
  for (int64_t chunk = team_index; chunk < launch.chunks; chunk += teams) {
    Real* sums = launch.sums + chunk * launch.sum_stride;
    fill(team, call.summed_size, sums, Real(0));
    const int64_t first = call.tasks * chunk / launch.chunks;
    const int64_t last = call.tasks * (chunk + 1) / launch.chunks;
    for (int64_t task = first; task < last; ++task) {
      if (launch.poison) {
        fill(team, workspace.fast_size, memory.fast, Real(NAN));
        fill(team, workspace.size - workspace.fast_size, memory.slow, Real(NAN));
      }
      team.sync();
      InnerLoop<Team, Real> loop(team, call, workspace, memory, sums, task);
      call.vectors ? loop.hessian_vector_product() : loop.run();
    }
  }
}

template <class Real, int capacity>
__global__ void __launch_bounds__(most_lanes, 1)
    run_tasks(const __grid_constant__ Image<capacity> image, int image_size, int scratch_size) {
  run_block<Real>(image.bytes, image_size, scratch_size);
}

// Elements that a block of `sum_chunks` sums, and ranges of chunks that it sums side by side.
constexpr int sum_width = 32, sum_ranges = 8;

// The gradients of all chunks, added up: some ranges of chunks each in order, then the ranges.
template <class Real, int capacity>
__global__ void __launch_bounds__(sum_width* sum_ranges)
    sum_chunks(const __grid_constant__ Image<capacity> image) {
  __shared__ Real partial[sum_ranges][sum_width];
  const Launch<Real>& launch = *reinterpret_cast<const Launch<Real>*>(image.bytes);
  const int64_t element = int64_t{blockIdx.x} * sum_width + threadIdx.x;
  const int range = threadIdx.y;
  const bool is_there = element < launch.call.summed_size;
  if (is_there) {
    const int64_t first = launch.chunks * range / sum_ranges;
    const int64_t last = launch.chunks * (range + 1) / sum_ranges;
    const Real* from = launch.sums + first * launch.sum_stride + element;
    Real sum = 0;
#pragma unroll 8
    for (int64_t chunk = first; chunk < last; ++chunk, from += launch.sum_stride) sum += *from;
    partial[range][threadIdx.x] = sum;
  }
  __syncthreads();
  if (!is_there || range > 0) return;
  Real sum = partial[0][threadIdx.x];
  for (int r = 1; r < sum_ranges; ++r) sum += partial[r][threadIdx.x];
  const auto* gradients = reinterpret_cast<const SummedGradient<Real>*>(
      image.bytes + reinterpret_cast<size_t>(launch.summed));
  int index = 0;
  while (element >= gradients[index].offset + gradients[index].size) ++index;
  gradients[index].to[element - gradients[index].offset] = sum;
}

}  // namespace fastmaml::FM_ISA
