//! Why a session ended, why a client was refused, why a connect failed: one `Copy` byte each, with exactly one counter
//! and one word in log and metrics. The words are part of the contract with users; change none.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            pub const COUNT: usize = $name::ALL.len();

            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(self.word())
            }
        }
    };
}

words!(
    /// Side and cause of a session's end. A clean session ends with the side that closed first.
    End {
        ClientFin = "client-fin",
        ClientReset = "client-reset",
        ClientTimeout = "client-timeout",
        BackendFin = "backend-fin",
        BackendReset = "backend-reset",
        BackendTimeout = "backend-timeout",
        ConnectRefused = "connect-refused",
        ConnectTimeout = "connect-timeout",
        NoBackend = "no-backend",
        WaitFull = "wait-full",
        WaitTimeout = "wait-timeout",
        ClientGone = "client-gone",
        Idle = "idle",
        Lifetime = "lifetime",
        HalfCloseTimeout = "half-close-timeout",
        Keepalive = "keepalive",
        UserTimeout = "user-timeout",
        Drained = "drained",
        Killed = "killed",
        BackendDown = "backend-down",
        RoleChange = "role-change",
        Denied = "denied",
        Limited = "limited",
        PrefaceInvalid = "preface-invalid",
        Resources = "resources",
        Shutdown = "shutdown",
        Internal = "internal",
    }
);

words!(
    /// Why a client was turned away at accept.
    Refusal {
        /// `deny` names the address, or `allow` does not.
        Denied = "denied",
        /// `connection_rate`
        Rate = "rate",
        /// `source_connection_rate`
        SourceRate = "source-rate",
        /// `source_max_connections`
        SourceLimit = "source-limit",
        /// The table of client addresses has no room for a new one.
        SourcesFull = "sources-full",
        /// `max_connections`
        ListenerLimit = "listener-limit",
        Resources = "resources",
        Shutdown = "shutdown",
    }
);

impl Refusal {
    /// What a session ends as that is refused for this reason after it has begun: when the client's own address comes
    /// with its first bytes.
    #[must_use]
    pub fn as_end(self) -> End {
        match self {
            Refusal::Denied => End::Denied,
            Refusal::Resources => End::Resources,
            Refusal::Shutdown => End::Shutdown,
            Refusal::Rate
            | Refusal::SourceRate
            | Refusal::SourceLimit
            | Refusal::SourcesFull
            | Refusal::ListenerLimit => End::Limited,
        }
    }
}

words!(
    /// Why a datagram was dropped.
    Drop {
        NoBackend = "no-backend",
        /// `deny` names the client's address, or `allow` does not.
        Denied = "denied",
        /// A limit of its listener keeps the client from a flow; which one is told by the refusals.
        Limited = "limited",
        /// The flow table, or a limit of flows, is full of worthier ones.
        TableFull = "table-full",
        /// It came to a listener's socket that was full of others: the newest go.
        Overrun = "overrun",
        /// More came than could be carried, most of it of its flow: the newest go.
        Overload = "overload",
        /// The socket towards its receiver has no room.
        Full = "socket-full",
        /// ICMP said so, or there is no route.
        Unreachable = "unreachable",
        /// Longer than the way to its receiver allows, or than a datagram can be.
        TooLong = "too-long",
        Resources = "resources",
        Shutdown = "shutdown",
    }
);

words!(
    /// Why one attempt to connect to a backend failed.
    ConnectFailure {
        Refused = "refused",
        Timeout = "timeout",
        Unreachable = "unreachable",
        Reset = "reset",
        /// No free local port towards the backend.
        Ports = "ports",
        /// Out of descriptors or kernel memory on our side.
        Resources = "resources",
        Other = "other",
    }
);

words!(
    /// What became of a PostgreSQL cancel request.
    CancelResult {
        Sent = "sent",
        /// More of them from one source than are taken, or in all than can be carried out.
        Limited = "limited",
        /// It did not reach every backend with sessions.
        Failed = "failed",
    }
);

words!(
    /// What one health check found.
    CheckResult {
        Ok = "ok",
        Refused = "refused",
        Timeout = "timeout",
        Unreachable = "unreachable",
        Reset = "reset",
        /// The server ended the connection before it had answered.
        Closed = "closed",
        /// It answered, and not as it should.
        Failed = "failed",
        /// Served late by the prober's own stall, so it says nothing about the backend.
        Void = "void",
        Other = "other",
    }
);
