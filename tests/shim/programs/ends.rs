use std::{env,thread,process};
#[inline(never)] fn deep(n:u64,v:&mut Vec<u64>)->u64{ let a=[n;64]; v[(n%8) as usize]+=a[(n%64) as usize]; let a=std::hint::black_box(a); let r=deep(n+1,v); std::hint::black_box(&a); r+a[3] }
fn main(){
 match env::args().nth(1).as_deref() {
  Some("overflow") => { let mut v=vec![0;8]; println!("{}",deep(0,&mut v)); }
  Some("overflow-thread") => { thread::spawn(||{let mut v=vec![0;8]; println!("{}",deep(0,&mut v));}).join().unwrap(); }
  Some("segv") => { let p=std::hint::black_box(16 as *mut u64); unsafe{ *p=1; } }
  Some("wild") => { let p=std::hint::black_box(0xdead_beef_0000_1238u64 as *mut u64); unsafe{ *p=1; } }
  Some("wild2") => { let p=std::hint::black_box(0x1000_0000_1238u64 as *mut u64); unsafe{ *p=1; } }
  Some("abort") => process::abort(),
  Some("exit-in-thread") => { thread::spawn(||{ println!("x"); process::exit(7)}).join().unwrap(); }
  Some("panic") => panic!("main"),
  Some("unwrap-catch") => { let mut s=0u64; for i in 0..10000u64 { let r=std::panic::catch_unwind(||{ if std::hint::black_box(i)%2==0 { std::panic::resume_unwind(Box::new(i)); } i}); s+= match r {Ok(v)=>v,Err(e)=>*e.downcast::<u64>().unwrap()*3}; } println!("{s}"); }
  Some("backtrace") => { #[inline(never)] fn f(n:u32)->String{ if n==0 { std::backtrace::Backtrace::force_capture().to_string() } else { let s=f(n-1); std::hint::black_box(s) } } println!("{}",f(5)); }
  Some("div") => { let z=std::hint::black_box(0u64); unsafe{ std::arch::asm!("div {0}",in(reg) z,inout("rax") 5u64=>_,inout("rdx") 0u64=>_); } }
  Some("kill9") => { unsafe{ extern "C"{fn kill(p:i32,s:i32)->i32; fn getpid()->i32;} kill(getpid(),9);} }
  Some("exec") => { use std::os::unix::process::CommandExt; let e=process::Command::new("/bin/sh").arg("-c").arg("echo exec; env | grep -cE 'CONPROF|PRELOAD'; ls /proc/self/fd | wc -l; exit 9").exec(); println!("{e}"); }
  Some("env") => { for (k,v) in env::vars() { println!("{k}={v}"); } let e=std::fs::read("/proc/self/environ").unwrap(); println!("{}",String::from_utf8_lossy(&e).trim_end_matches('\0').replace('\0',"\n")); println!("{}", std::fs::read_dir("/proc/self/fd").unwrap().count()); }
  _=>{} } }
