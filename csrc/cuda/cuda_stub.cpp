#include "cuda.h"

namespace fastmaml {

const char* cuda_refusal() {
  return "this fastmaml was built without CUDA kernels: the CUDA executor is not part of this "
         "version";
}

}  // namespace fastmaml
