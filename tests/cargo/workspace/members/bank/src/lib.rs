//! Accounts behind a lock; nothing is wrong with it but one test.

use std::sync::Mutex;

/// Money.
#[derive(Debug, Default)]
pub struct Account(Mutex<u64>);

impl Account {
    /// Pays in.
    pub fn pay(&self, amount: u64) {
        *self.0.lock().expect("not poisoned") += amount;
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
    fn a_failing_test() {
        assert!(std::env::var_os("BANK_FAILS").is_none(), "asked to fail");
    }
}
