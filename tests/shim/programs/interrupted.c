// Signals at a high rate while checked code runs: results, masks and stacks stay right, and a handler that
// looks at the interrupted place sees an address of the program's own text.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

extern char __executable_start, etext;
static atomic_long handled, outside, nested;
static _Atomic uint64_t cells[64];
static uint64_t table[4096];
static __thread int depth;

static void handle(int signal, siginfo_t *info, void *context) {
  ucontext_t *c = context;
  uint64_t pc = c->uc_mcontext.gregs[REG_RIP];
  // Inside the program, or inside a library: never in memory that belongs to no file.
  if (pc > (uint64_t)&__executable_start - (512 << 20) && pc < (uint64_t)&__executable_start) outside++;
  if (depth++) nested++;
  for (int i = 0; i < 16; i++) cells[i] += table[(handled + i) % 4096] & 1;
  handled++;
  depth--;
  (void)signal, (void)info;
}

static void *work(void *seed) {
  uint64_t x = (uint64_t)seed, sum = 0;
  uint64_t *own = malloc(sizeof table);
  for (int round = 0; round < 300; round++) {
    for (int i = 0; i < 4096; i++) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      own[i] = x ^ table[i];
    }
    for (int i = 0; i < 4096; i++) sum += own[(own[i] >> 20) % 4096] + (own[i] < x);
    cells[x % 64]++;
    char text[64];
    snprintf(text, sizeof text, "%d", round);
    sum += strlen(text);
  }
  free(own);
  return (void *)sum;
}

int main(int argc, char **argv) {
  stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART};
  if (argc > 1) {
    sigaltstack(&stack, 0);
    action.sa_flags |= SA_ONSTACK;
  }
  sigaction(SIGALRM, &action, 0);
  sigaction(SIGPROF, &action, 0);
  for (int i = 0; i < 4096; i++) table[i] = i * 0x9e3779b97f4a7c15u;
  struct itimerval every = {{0, 2000}, {0, 2000}}, often = {{0, 5000}, {0, 5000}};
  setitimer(ITIMER_REAL, &every, 0);
  setitimer(ITIMER_PROF, &often, 0);
  pthread_t threads[4];
  for (long i = 0; i < 4; i++) pthread_create(&threads[i], 0, work, (void *)(i + 1));
  uint64_t sum = (uint64_t)work((void *)77);
  for (int i = 0; i < 4; i++) {
    void *result;
    pthread_join(threads[i], &result);
    sum += (uint64_t)result;
  }
  while (handled <= 5) usleep(500);
  memset(&every, 0, sizeof every);
  setitimer(ITIMER_REAL, &every, 0);
  setitimer(ITIMER_PROF, &every, 0);
  sigset_t mask;
  sigprocmask(SIG_BLOCK, 0, &mask);
  int blocked = 0;
  for (int i = 1; i < 65; i++) blocked += sigismember(&mask, i) == 1;
  printf("sum %lx blocked %d handled %d outside %ld nested %d\n", sum, blocked, handled > 5, outside, nested > 1000000);
  return 0;
}
