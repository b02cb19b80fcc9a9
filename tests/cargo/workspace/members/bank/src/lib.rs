//! Accounts behind a lock; nothing is wrong with it but what two tests do when they are asked to.

use std::sync::Mutex;

/// Money.
#[derive(Debug, Default)]
pub struct Account(Mutex<u64>);

impl Account {
    /// Pays in.
    pub fn pay(&self, amount: u64) {
        *self.0.lock().expect("not poisoned") += amount;
    }

    /// Moves money to another account. Two transfers in opposite directions at once can wait for each other for ever; `halfway`
    /// is called between the locks.
    pub fn transfer(&self, to: &Account, amount: u64, halfway: impl FnOnce()) {
        let mut from = self.0.lock().expect("not poisoned");
        halfway();
        let mut to = to.0.lock().expect("not poisoned");
        *from -= amount;
        *to += amount;
    }

    /// What is there.
    pub fn balance(&self) -> u64 {
        *self.0.lock().expect("not poisoned")
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn money_adds_up() {
        let account = Account::default();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| account.pay(5));
            }
        });
        assert_eq!(account.balance(), 15);
    }

    #[test]
    fn opposite_transfers() {
        let (one, other) = (Account::default(), Account::default());
        one.pay(10);
        other.pay(10);
        let stuck = std::env::var_os("BANK_DEADLOCKS").is_some();
        let meet = std::sync::Barrier::new(if stuck { 2 } else { 1 });
        let transfer = |from: &Account, to: &Account| from.transfer(to, 1, || _ = meet.wait());
        std::thread::scope(|scope| {
            scope.spawn(|| transfer(&one, &other));
            if stuck {
                scope.spawn(|| transfer(&other, &one));
            }
        });
        assert_eq!(one.balance() + other.balance(), 20);
    }

    #[test]
    fn a_failing_test() {
        assert!(std::env::var_os("BANK_FAILS").is_none(), "asked to fail");
    }
}
