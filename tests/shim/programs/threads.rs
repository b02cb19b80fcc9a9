use std::sync::{Arc,Mutex,mpsc};use std::thread;
fn main(){
 let m=Arc::new(Mutex::new(0u64)); let mut hs=vec![];
 for i in 0..8 { let m=m.clone(); hs.push(thread::Builder::new().name(format!("w{i}")).spawn(move||{ for _ in 0..1000{*m.lock().unwrap()+=1;} let v:Vec<u64>=(0..1000).collect(); v.iter().sum::<u64>() }).unwrap()); }
 let s:u64=hs.into_iter().map(|h|h.join().unwrap()).sum(); println!("{} {}",s,*m.lock().unwrap());
 let (tx,rx)=mpsc::channel(); for i in 0..100{ let tx=tx.clone(); thread::spawn(move||{tx.send(i).unwrap()}); } drop(tx); println!("{}",rx.iter().sum::<i32>());
 let r=thread::spawn(||{panic!("boom")}).join(); println!("{}",r.is_err());
 let out=std::process::Command::new("sh").arg("-c").arg("env | grep -c -E 'PRELOAD|CONPROF'").output().unwrap(); print!("{}",String::from_utf8_lossy(&out.stdout));
 for i in 0..3000 { thread::spawn(move||i).join().unwrap(); }
 println!("{:?}", std::env::vars().filter(|(k,_)|k.contains("PRELOAD")||k.contains("CONPROF")).collect::<Vec<_>>());
}
