/* The network and the server.
 *
 * Law: while a connection lasts it keeps its order and loses nothing. When it breaks, what was
 * under way arrives later or never, and no answer comes back: a lost request and a lost reply
 * look the same to a caller.
 */

#define UNDERWAY 2 /* commands that fit on a connection */
#define NOBODY CALLERS

/* caller (NOBODY: it has left), verb, token, ttl or the waiter's token */
chan wire[PROCESSES] = [UNDERWAY] of { byte, mtype, byte, byte };
chan late[PROCESSES] = [UNDERWAY] of { byte, mtype, byte, byte }; /* of the old connection */
chan answer[CALLERS] = [1] of { byte };

/* Answers: to ask the token that was found; to the others whether it was done. */
#define NIL 0
#define OK 1

#ifdef WRONG_RELEASE_WITHOUT_COMPARE
#define may_release (holder != 0)
#else
#define may_release (holder == tok)
#endif
#ifdef WRONG_EXTEND_WITHOUT_COMPARE
#define may_extend (holder != 0)
#else
#define may_extend (holder == tok)
#endif
#ifdef WRONG_SWAP_WITHOUT_COMPARE
#define may_swap true
#else
#define may_swap (holder == tok)
#endif

inline execute(is_late) {
    d_step {
        if
        :: verb == acquire && holder == 0 ->
             holder = tok; ttl_left = arg - gained; late_taken = is_late; reply = OK
        :: verb == ask && holder == 0 ->
             holder = tok; ttl_left = arg - gained; late_taken = is_late; reply = NIL
        :: verb == ask && holder != 0 -> reply = holder
        :: verb == extend && may_extend -> ttl_left = arg - gained; reply = OK
        :: verb == release && may_release ->
             if :: holder == tok -> freed[tok] = true :: else fi;
             holder = 0; ttl_left = 0; late_taken = false; reply = OK
#ifdef HANDOVER
        :: verb == swap && may_swap ->
             if :: holder == tok -> freed[tok] = true :: else fi;
             holder = arg; ttl_left = WAITERS_TTL - gained; late_taken = is_late; reply = OK
#endif
        :: else -> reply = NIL
        fi;
        printf("server: %e of token %d, answer %d\n", verb, tok, reply)
    }
}

#define forget_command() who = 0; verb = 0; tok = 0; arg = 0; reply = 0; gained = 0

active proctype Server() {
    byte who, tok, arg, reply;
    byte gained; /* ticks by which the ttl that is set will be too short */
    mtype verb;
end:
    do
    :: atomic {
           if
           :: wire[0]?who,verb,tok,arg
#ifdef TWO
           :: wire[1]?who,verb,tok,arg
#endif
           fi;
           if :: gained = 0 :: gained = GAIN fi;
           execute(false);
           if :: who != NOBODY -> answer[who]!reply :: else fi;
           forget_command()
       }
    :: atomic {
           if
           :: late[0]?who,verb,tok,arg
#ifdef TWO
           :: late[1]?who,verb,tok,arg
#endif
           fi;
           if
           :: true ->
                printf("=> a command lands late\n");
                if :: gained = 0 :: gained = GAIN fi;
                execute(true)
           :: printf("lost for good: %e of token %d\n", verb, tok)
           fi;
           forget_command()
       }
    od
}

/* --- what callers do to connections: ``me`` is the caller; w, v, t, a, rest its scratch */

#define MINE PROCESS(me)
#define MATE (1 - me)

inline cut_mate() {
#ifdef HANDOVER
    if
    :: awaits[MATE] -> awaits[MATE] = false; if :: answer[MATE]?_ :: empty(answer[MATE]) fi
    :: else
    fi
#else
    skip
#endif
}

/* What is under way may land late, and every answer is lost. */
inline break_connection() {
    d_step {
        do
        :: wire[MINE]?w,v,t,a -> late[MINE]!w,v,t,a
        :: empty(wire[MINE]) -> break
        od;
        if :: answer[me]?_ :: empty(answer[me]) fi;
        cut_mate();
        w = 0; v = 0; t = 0; a = 0
    }
}

#ifdef NO_KILL
#define may_break empty(late[MINE]) /* one old connection at a time is kept in mind */
#else
#define may_break true
#endif

/* Before a new connection carries anything, the server has ended the old one. */
inline connect() {
#ifdef NO_KILL
    skip
#else
    d_step { do :: late[MINE]?_,_,_,_ :: empty(late[MINE]) -> break od }
#endif
}

/* Leaving early: the command goes on its way, its answer is for nobody. */
inline abandon() {
    d_step {
        if
        :: answer[me]?_
        :: empty(answer[me]) ->
             rest = len(wire[MINE]);
             do
             :: rest > 0 ->
                  wire[MINE]?w,v,t,a;
                  if :: w == me -> w = NOBODY :: else fi;
                  wire[MINE]!w,v,t,a;
                  rest--
             :: rest == 0 -> break
             od
        fi;
        w = 0; v = 0; t = 0; a = 0
    }
}

#define send(verb_, arg_) send_about(verb_, token[me], arg_)

inline send_about(verb_, token_, arg_) {
    nfull(wire[MINE]);
    connect();
    printf("%d: sends %e\n", me, verb_);
    wire[MINE]!me,verb_,token_,arg_;
    AWAITING(true)
}

/* What came of the command under way into ``heard``, its answer into ``reply``. */
inline await() {
    if
    :: answer[me]?reply -> heard = answered; printf("%d: hears %d\n", me, reply)
    :: connected && may_break ->
         break_connection(); heard = lost; printf("%d: the connection breaks\n", me)
#ifdef HANDOVER
    :: !connected -> heard = lost; printf("%d: so it does for its mate\n", me)
#endif
#ifndef CALM
    :: connected -> abandon(); heard = left; printf("%d: leaves early\n", me)
#ifndef NO_KILL /* where it is no worse than leaving without giving back */
    :: connected -> break_connection(); heard = crashed; printf("%d: crashes\n", me)
#endif
#endif
    fi;
    AWAITING(false)
}
