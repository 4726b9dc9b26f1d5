use holdfast::domain::id::*; use holdfast::domain::system::*; use holdfast::format::seal::*; use holdfast::repository::{session::*, stream_writer::*, stream_reader::*, index_loader};
use holdfast::storage::*; use std::sync::Arc; use std::io::Read;
fn cpu() -> f64 { let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime); t.tv_sec as f64 + t.tv_nsec as f64*1e-9 }
fn main() {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let store = Arc::new(memory::MemoryStore::new());
    let repo = RepositoryId([1;16]);
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(1));
    let mut prev: Option<VersionId> = None; let mut total = 0u64;
    for (n,f) in files.iter().enumerate() {
        let keys = Arc::new(Keys::derive(&[3;32], repo, Suite::Aes256Gcm));
        let start = SessionStart{ id: SnapshotId(random.bytes()), host:"h".into(), process:1, started_ns:0, sources: vec![] };
        let t0=cpu();
        let mut s = BackupSession::begin(store.clone(), keys.clone(), random.clone(), &start, |st,k| Ok(index_loader::load(st,k)?.0)).unwrap();
        let t1=cpu();
        let parent = prev.and_then(|p| s.open_parent(p).unwrap());
        let depth = parent.as_ref().map(|p| p.depth()).unwrap_or(0);
        let mut w = StreamWriter::new(&mut s, parent, vec![], StreamSettings::data());
        let mut fh = std::fs::File::open(f).unwrap(); let mut buf = vec![0u8; 1<<20];
        loop { let n = fh.read(&mut buf).unwrap(); if n==0 {break} w.push(&buf[..n]).unwrap(); }
        let v = w.finish().unwrap();
        s.flush().unwrap();
        let t2=cpu();
        s.prove(v.version).unwrap();
        let t3=cpu();
        let sb = s.stored_bytes(); total += sb;
        let (h,_) = read_head(s.index(), s.reader(), v.version).unwrap();
        if n<4 || n%8==7 || n+1==files.len() { println!("{n} depth={depth} stored={sb} total={total} lit={} rec={} flat_runs={} load={:.3} enc={:.3} prove={:.3}", h.literal_bytes, h.chain_bytes, h.flat_runs, t1-t0, t2-t1, t3-t2); }
        prev = Some(v.version);
    }
    let rss = std::fs::read_to_string("/proc/self/status").unwrap(); for l in rss.lines().filter(|l| l.starts_with("VmHWM")||l.starts_with("VmRSS")) { println!("{l}"); }
}
