#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/wait.h>
#include <setjmp.h>
#include <time.h>
#include <threads.h>
#include <sys/time.h>
#include <execinfo.h>
static volatile sig_atomic_t hits; static pthread_key_t key; static int dtor;
static void h(int s){hits++;}
static void h3(int s, siginfo_t*i, void*u){ void*b[32]; int n=backtrace(b,32); hits+=n>0; }
static void *th(void*p){ pthread_setspecific(key,p); for(int i=0;i<200;i++){ void*q=malloc(i+1); memset(q,1,i+1); free(q);} return p; }
static void kd(void*p){ __atomic_fetch_add(&dtor,1,__ATOMIC_RELAXED); free(malloc(100)); }
static void tm(union sigval v){ __atomic_fetch_add(&dtor,100,__ATOMIC_RELAXED); free(malloc(10)); }
static int c11(void*p){ return 7; }
static pthread_once_t once=PTHREAD_ONCE_INIT; static int onced; static void of(void){onced++;}
static sigjmp_buf jb; static void segv(int s){ siglongjmp(jb,1);} 
static void *exiter(void*p){ pthread_exit((void*)5);} 
static void cl(void*p){ __atomic_fetch_add(&dtor,1000,__ATOMIC_RELAXED); }
static void *canc(void*p){ pthread_cleanup_push(cl,0); for(;;) sleep(1); pthread_cleanup_pop(0); return 0;}
int main(){
 pthread_key_create(&key,kd);
 struct sigaction sa={0}, old; sa.sa_sigaction=h3; sa.sa_flags=SA_SIGINFO|SA_RESTART; sigaction(SIGUSR1,&sa,0);
 sigaction(SIGUSR1,0,&old); printf("same %d flags %x\n", old.sa_sigaction==h3, old.sa_flags);
 printf("old %d\n", signal(SIGUSR2,h)==SIG_DFL); printf("old %d\n", signal(SIGUSR2,h)==h);
 struct itimerval it={{0,1000},{0,1000}}; signal(SIGALRM,h); setitimer(ITIMER_REAL,&it,0);
 pthread_t t[8]; for(int r=0;r<50;r++){ for(int i=0;i<8;i++) pthread_create(&t[i],0,th,(void*)1); for(int i=0;i<8;i++) pthread_join(t[i],0);} 
 memset(&it,0,sizeof it); setitimer(ITIMER_REAL,&it,0);
 printf("dtor %d hits>0 %d\n",dtor,hits>0);
 timer_t ti; struct sigevent se={0}; se.sigev_notify=SIGEV_THREAD; se.sigev_notify_function=tm; timer_create(CLOCK_MONOTONIC,&se,&ti); struct itimerspec ts={{0,0},{0,1000000}}; timer_settime(ti,0,&ts,0); usleep(50000);
 printf("dtor %d\n",dtor);
 thrd_t c; int res; thrd_create(&c,c11,0); thrd_join(c,&res); printf("c11 %d\n",res);
 pthread_once(&once,of); pthread_once(&once,of); printf("once %d\n",onced);
 void*rv; pthread_create(&t[0],0,exiter,0); pthread_join(t[0],&rv); printf("exit %ld\n",(long)rv);
 pthread_create(&t[0],0,canc,0); usleep(1000); pthread_cancel(t[0]); pthread_join(t[0],&rv); printf("cancel %d dtor %d\n",rv==PTHREAD_CANCELED,dtor);
 signal(SIGSEGV,segv); if(!sigsetjmp(jb,1)) *(volatile int*)8=1; else printf("segv caught\n"); signal(SIGSEGV,SIG_DFL);
 fflush(stdout); pid_t p=fork(); if(!p){ pthread_create(&t[0],0,th,(void*)1); pthread_join(t[0],0); free(malloc(1)); kill(getpid(),SIGUSR1); printf("child ok %d\n", hits>0); fflush(stdout); _exit(3);} int st; waitpid(p,&st,0); printf("child %d\n",WEXITSTATUS(st));
 p=vfork(); if(!p){ execl("/bin/echo","echo","vforked",NULL); _exit(1);} waitpid(p,&st,0);
 printf("system %d\n", system("exit 4")>>8);
 abort();
}
