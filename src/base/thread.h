// Threads of the library: the program's signal handlers shall not run on them.
#pragma once

#include <signal.h>

#include <condition_variable>
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

// A condition variable that is never destroyed: glibc's waits there until its waiters have gone on,
// and in a forked child these are threads of the parent.
class Condition {
 public:
  Condition() : variable_() {}
  ~Condition() {}
  Condition(const Condition&) = delete;
  Condition& operator=(const Condition&) = delete;
  std::condition_variable* operator->() { return &variable_; }

 private:
  union {
    std::condition_variable variable_;
  };
};

}  // namespace tutti
