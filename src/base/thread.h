// Threads of the library: the program's signal handlers shall not run on them.
#pragma once

#include <signal.h>

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "tutti/status.h"

namespace tutti {

// A thread that has every signal blocked. Errors: system_error when there can be no more threads.
template <class Body>
Result<std::thread> start_thread(Body&& body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  Result<std::thread> thread = Status(Code::system_error, "cannot start a thread");
  try {
    thread = std::thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    thread = Status(Code::system_error, std::string("cannot start a thread: ") + error.what());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace tutti
