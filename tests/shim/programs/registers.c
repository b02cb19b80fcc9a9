// Every register, the flags and the red zone around checked instructions: prints what changed, which is
// what the instruction itself changes and nothing else, with and without conprof.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct frame { uint64_t gpr[16], flags; uint8_t xmm[16][16]; uint64_t red[16]; };
static struct frame in, out;
uint64_t shared[64] __attribute__((aligned(64)));

// A leaf function that loads all registers from `in`, writes the red zone, runs one body, reads the red zone
// and stores all registers to `out`.
#define PROBE(name, body) \
__asm__(".text\n.globl " #name "\n.type " #name ",@function\n" #name ":\n .cfi_startproc\n" \
 " push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n" \
 " lea in(%rip), %rax\n" \
 " movups 136(%rax),%xmm0\n movups 152(%rax),%xmm1\n movups 168(%rax),%xmm2\n movups 184(%rax),%xmm3\n" \
 " movups 200(%rax),%xmm4\n movups 216(%rax),%xmm5\n movups 232(%rax),%xmm6\n movups 248(%rax),%xmm7\n" \
 " movups 264(%rax),%xmm8\n movups 280(%rax),%xmm9\n movups 296(%rax),%xmm10\n movups 312(%rax),%xmm11\n" \
 " movups 328(%rax),%xmm12\n movups 344(%rax),%xmm13\n movups 360(%rax),%xmm14\n movups 376(%rax),%xmm15\n" \
 " mov 8(%rax),%rcx\n mov 16(%rax),%rdx\n mov 24(%rax),%rbx\n mov 40(%rax),%rbp\n mov 48(%rax),%rsi\n mov 56(%rax),%rdi\n" \
 " mov 64(%rax),%r8\n mov 72(%rax),%r9\n mov 80(%rax),%r10\n mov 88(%rax),%r11\n mov 96(%rax),%r12\n mov 104(%rax),%r13\n" \
 " mov 112(%rax),%r14\n mov 120(%rax),%r15\n" \
 " movq $0x1111,-8(%rsp)\n movq $0x2222,-64(%rsp)\n movq $0x3333,-128(%rsp)\n" \
 " push 128(%rax)\n popfq\n movq $0x1111,-8(%rsp)\n mov 0(%rax),%rax\n" \
 body \
 " mov %rax, out(%rip)\n pushfq\n pop %rax\n mov %rax, out+128(%rip)\n cld\n mov -64(%rsp),%rax\n mov %rax,out+400(%rip)\n mov -128(%rsp),%rax\n mov %rax,out+408(%rip)\n" \
 " lea out(%rip), %rax\n" \
 " mov %rcx,8(%rax)\n mov %rdx,16(%rax)\n mov %rbx,24(%rax)\n mov %rbp,40(%rax)\n mov %rsi,48(%rax)\n mov %rdi,56(%rax)\n" \
 " mov %r8,64(%rax)\n mov %r9,72(%rax)\n mov %r10,80(%rax)\n mov %r11,88(%rax)\n mov %r12,96(%rax)\n mov %r13,104(%rax)\n" \
 " mov %r14,112(%rax)\n mov %r15,120(%rax)\n" \
 " movups %xmm0,136(%rax)\n movups %xmm1,152(%rax)\n movups %xmm2,168(%rax)\n movups %xmm3,184(%rax)\n" \
 " movups %xmm4,200(%rax)\n movups %xmm5,216(%rax)\n movups %xmm6,232(%rax)\n movups %xmm7,248(%rax)\n" \
 " movups %xmm8,264(%rax)\n movups %xmm9,280(%rax)\n movups %xmm10,296(%rax)\n movups %xmm11,312(%rax)\n" \
 " movups %xmm12,328(%rax)\n movups %xmm13,344(%rax)\n movups %xmm14,360(%rax)\n movups %xmm15,376(%rax)\n" \
 " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n .cfi_endproc\n.size " #name ",.-" #name "\n"); \
extern void name(void);

PROBE(load, " mov (%rdi),%r8\n")
PROBE(load_own_address, " mov (%rdi),%rdi\n")
PROBE(load_byte, " movzbl 3(%rdi),%r9d\n")
PROBE(store, " mov %rsi,8(%rdi)\n")
PROBE(store_odd, " mov %rsi,13(%rdi)\n")
PROBE(store_vector, " movups %xmm3,32(%rdi)\n")
PROBE(load_vector, " movups 32(%rdi),%xmm5\n")
PROBE(add_memory, " add %rsi,16(%rdi)\n")
PROBE(compare, " cmp %rsi,(%rdi)\n")
PROBE(adc_memory, " adc $0,24(%rdi)\n")
PROBE(locked_add, " lock addq $3,(%rdi)\n")
PROBE(exchange, " xchg %rsi,(%rdi)\n")
PROBE(exchange_add, " lock xadd %rsi,8(%rdi)\n")
PROBE(compare_exchange, " lock cmpxchg %rsi,(%rdi)\n")
PROBE(move_string, " lea 64(%rdi),%rsi\n mov $5,%ecx\n rep movsq\n")
PROBE(move_string_down, " std\n lea 64(%rdi),%rsi\n mov $3,%ecx\n rep movsb\n")
PROBE(store_string, " mov $9,%ecx\n rep stosb\n")
PROBE(compare_string, " lea 8(%rdi),%rsi\n mov $4,%ecx\n repe cmpsb\n")
PROBE(system_call, " mov $39,%eax\n syscall\n xor %eax,%eax\n xor %ecx,%ecx\n xor %r11d,%r11d\n")

static struct { const char *name; void (*run)(void); } probes[] = {
#define P(n) {#n, n}
 P(load), P(load_own_address), P(load_byte), P(store), P(store_odd), P(store_vector), P(load_vector), P(add_memory), P(compare),
 P(adc_memory), P(locked_add), P(exchange), P(exchange_add), P(compare_exchange), P(move_string), P(move_string_down),
 P(store_string), P(compare_string), P(system_call),
};

static void show(const char *name, uint64_t flags) {
  printf("%s %04lx:", name, flags);
  for (int i = 0; i < 16; i++) {
    if (i == 4) continue;
    uint64_t v = out.gpr[i];
    if (v != in.gpr[i]) printf(" r%d=%lx", i, v - ((v >> 20) == ((uint64_t)shared >> 20) ? (uint64_t)shared : 0));
  }
  if ((out.flags ^ flags) & 0xcd5) printf(" flags=%lx", out.flags & 0xcd5);
  if (memcmp(in.xmm, out.xmm, sizeof in.xmm)) printf(" xmm");
  if (out.red[1 - 1] != 0x2222 && 0) printf(" red");
  printf(" red %lx %lx", ((uint64_t *)&out)[50], ((uint64_t *)&out)[51]);
  printf(" memory");
  for (int i = 0; i < 16; i++) printf(" %lx", shared[i]);
  puts("");
}

static void *run(void *unused) {
  static const uint64_t flags[] = {0x202, 0x202 | 0x8d5, 0x202 | 0x41, 0x202 | 0x800, 0x202 | 0x94};
  for (unsigned p = 0; p < sizeof probes / sizeof *probes; p++)
    for (unsigned f = 0; f < sizeof flags / sizeof *flags; f++) {
      for (int i = 0; i < 64; i++) shared[i] = i * 0x0101010101010101;
      for (int i = 0; i < 16; i++) in.gpr[i] = 0x1000 + i * 0x1111111111;
      in.gpr[7] = (uint64_t)shared;
      in.flags = flags[f];
      for (int i = 0; i < 16; i++) memset(in.xmm[i], 0x30 + i, 16);
      memset(&out, 0, sizeof out);
      probes[p].run();
      show(probes[p].name, flags[f]);
    }
  return unused;
}

int main(void) {
  pthread_t t;
  run(0);
  pthread_create(&t, 0, run, 0);
  pthread_join(t, 0);
  return 0;
}
