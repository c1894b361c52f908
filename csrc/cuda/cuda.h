// The CUDA executor, as far as this build has one.
#pragma once

namespace fastmaml {

// Why this build cannot run on CUDA; null if it can.
const char* cuda_refusal();

}  // namespace fastmaml
