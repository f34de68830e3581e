// Stacks that are switched by a library of hand-written assembly, also to
// other threads, with frames of probed functions on each.
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ctx = boost::context;
#define APART __attribute__((noinline, noclone, noipa))

APART ctx::fiber pauses(ctx::fiber &&back) { back = std::move(back).resume(); asm volatile(""); return std::move(back); }
APART int works(ctx::fiber &back, int n) {
  if (n == 0) { back = pauses(std::move(back)); return 1; }
  int r = works(back, n - 1);
  asm volatile("");
  return r + n;
}
APART int throws(ctx::fiber &back, int n) {
  if (n == 0) { back = pauses(std::move(back)); throw std::runtime_error("out of a fiber"); }
  return throws(back, n - 1) + 1;
}

static std::mutex mutex;
static std::deque<ctx::fiber> ready;
static long total;

static ctx::fiber make(int n, bool throwing) {
  return ctx::fiber([n, throwing](ctx::fiber &&back) {
    long sum = 0;
    for (int i = 0; i < 20; i++) {
      sum += works(back, (n + i) % 30);
      if (throwing) try { throws(back, i % 10); } catch (std::runtime_error &e) { sum += (long)std::string(e.what()).size(); }
    }
    std::lock_guard<std::mutex> lock(mutex);
    total += sum;
    return std::move(back);
  });
}

int main(int argc, char **argv) {
  int fibers = argc > 1 ? atoi(argv[1]) : 100;
  // On one thread fibers throw as well.
  int most = argc > 2 ? atoi(argv[2]) : 4;
  for (int n = 0; n < fibers; n++) ready.push_back(make(n, most == 1));
  std::vector<std::thread> threads;
  for (int t = 0; t < most; t++)
    threads.emplace_back([] {
      for (;;) {
        ctx::fiber next;
        {
          std::lock_guard<std::mutex> lock(mutex);
          if (ready.empty()) return;
          next = std::move(ready.front());
          ready.pop_front();
        }
        next = std::move(next).resume();
        if (next) {
          std::lock_guard<std::mutex> lock(mutex);
          ready.push_back(std::move(next));
        }
      }
    });
  for (auto &thread : threads) thread.join();
  // Those that a thread held while another saw none left.
  while (!ready.empty()) { ctx::fiber next = std::move(ready.front()); ready.pop_front(); next = std::move(next).resume(); if (next) ready.push_back(std::move(next)); }
  printf("%ld\n", total);
}
