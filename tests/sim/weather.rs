//! What a seed is like: how large things are, how fast everybody is, and how often each kind of trouble comes. Some
//! seeds are calm, so that nothing may be late in them; some have one kind of trouble in plenty; most have a bit of all.

use super::random::Random;

/// Rates are per thousand opportunities.
#[derive(Clone, Debug)]
pub struct Weather {
    pub workers: usize,
    pub sessions_max: u32,
    /// The process's limit; 0 is none.
    pub process_max: u32,
    pub buffers: u16,
    pub buffer_bytes: u32,
    pub pipes_max: usize,
    pub pipe_bytes: u32,
    pub outcomes_max: usize,
    pub pools: usize,
    pub arrival_ns: u64,
    pub reload_ns: u64,
    pub verdict_ns: u64,
    pub pace_ns: u64,
    pub receive_buffer: u64,
    pub send_buffer: u64,
    pub small_limits: bool,
    pub unix: u32,
    pub late: u32,
    pub late_cancel: u32,
    pub early_wake: u32,
    pub stall: u32,
    pub short_send: u32,
    pub early_submit: u32,
    pub no_buffer: u32,
    pub receive_stop: u32,
    pub no_pipe: u32,
    pub move_short: u32,
    pub accept_pressure: u32,
    pub accept_retry: u32,
    pub open_fails: u32,
    pub overflow: u32,
    pub connect_trouble: u32,
    pub peer_reset: u32,
    pub peer_close: u32,
    pub peer_stall: u32,
}

impl Weather {
    pub fn draw(random: &mut Random) -> Weather {
        let mut weather = Weather::sizes(random);
        match random.below(10) {
            0 => {}
            1..4 => weather.blow_hard(random),
            _ => weather.blow(random, 1),
        }
        if random.chance(100) {
            weather.make_scarce(random);
        }
        weather
    }

    /// Sessions that all workers together can have.
    pub fn places(&self) -> u32 {
        self.sessions_max * self.workers as u32
    }

    /// Few places, many who want them, and backends that keep coming and going: places change hands between workers while
    /// the world changes.
    fn make_scarce(&mut self, random: &mut Random) {
        self.workers = 2;
        self.pools = 1;
        self.sessions_max = 60;
        self.process_max = 0;
        self.small_limits = true;
        self.arrival_ns = random.pick(&[300_000, 1_000_000]);
        self.pace_ns = random.pick(&[50_000, 300_000]);
        self.reload_ns = random.pick(&[1_000_000, 3_000_000]);
        self.verdict_ns = random.pick(&[1_000_000, 10_000_000]);
        self.stall = random.between(20, 80) as u32;
    }

    fn sizes(random: &mut Random) -> Weather {
        let workers = if random.chance(350) { 2 } else { 1 };
        let sessions_max = match workers {
            1 => random.pick(&[2, 3, 6, 12, 24, 60]),
            // Enough for one to be clearly more loaded than the other.
            _ => random.pick(&[3, 12, 60, 60]),
        };
        let all = sessions_max * workers as u32;
        Weather {
            workers,
            sessions_max,
            process_max: random.pick(&[0, all, all, all / 2 + 1]),
            buffers: random.pick(&[4, 8, 16, 64, 256]),
            buffer_bytes: random.pick(&[1024, 4096, 16_384, 16_384]),
            pipes_max: random.pick(&[0, 1, 2, 8, 64, 64]),
            pipe_bytes: random.pick(&[4096, 65_536, 524_288]),
            outcomes_max: random.pick(&[1, 3, 1000, 1000, 1000, 1000]),
            pools: random.pick(&[1, 1, 2]),
            arrival_ns: random.pick(&[100_000, 1_000_000, 5_000_000, 20_000_000]),
            reload_ns: random.pick(&[3_000_000, 50_000_000, 300_000_000, 1_000_000_000]),
            verdict_ns: random.pick(&[10_000_000, 100_000_000, 600_000_000]),
            pace_ns: random.pick(&[50_000, 300_000, 2_000_000, 20_000_000]),
            receive_buffer: random.pick(&[8_192, 131_072, 4_000_000]),
            send_buffer: random.pick(&[4_096, 65_536, 2_000_000]),
            small_limits: random.chance(500),
            unix: random.pick(&[0, 0, 200]),
            late: 0,
            late_cancel: 0,
            early_wake: 0,
            stall: 0,
            short_send: 0,
            early_submit: 0,
            no_buffer: 0,
            receive_stop: 0,
            no_pipe: 0,
            move_short: 0,
            accept_pressure: 0,
            accept_retry: 0,
            open_fails: 0,
            overflow: 0,
            connect_trouble: 100,
            peer_reset: 100,
            peer_close: 100,
            peer_stall: 100,
        }
    }

    fn blow(&mut self, random: &mut Random, force: u32) {
        let mut rate = |most: u64| random.below(most * u64::from(force)) as u32;
        self.late = rate(200);
        self.late_cancel = rate(300);
        self.early_wake = rate(60);
        self.stall = rate(8);
        self.short_send = rate(80);
        self.early_submit = rate(80);
        self.no_buffer = rate(60);
        self.receive_stop = rate(80);
        self.no_pipe = rate(150);
        self.move_short = rate(200);
        self.accept_pressure = rate(60);
        self.accept_retry = rate(60);
        self.open_fails = rate(200);
        self.overflow = rate(20);
        self.connect_trouble = rate(400);
        self.peer_reset = rate(400);
        self.peer_close = rate(300);
        self.peer_stall = rate(300);
    }

    /// Almost everything is quiet, but two kinds of trouble come often.
    fn blow_hard(&mut self, random: &mut Random) {
        for _ in 0..2 {
            let rate = random.between(100, 400) as u32;
            match random.below(12) {
                0 => self.late = rate,
                1 => self.late_cancel = 2 * rate,
                2 => self.short_send = rate,
                3 => self.early_submit = rate,
                4 => self.no_buffer = rate / 2,
                5 => self.receive_stop = rate,
                6 => self.no_pipe = 2 * rate,
                7 => self.move_short = rate,
                8 => self.accept_pressure = rate / 2,
                9 => self.connect_trouble = 2 * rate,
                10 => self.peer_reset = 2 * rate,
                _ => self.peer_stall = 2 * rate,
            }
        }
    }
}
