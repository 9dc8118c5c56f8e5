/* A caller: acquires, extends, releases, hands over; again and again.
 *
 * Law: step by step what src/fastlock/_ops.py does. Sending is one step and hearing another;
 * between two steps anything may happen. A try that could not be sent and is repeated is a
 * pause; so only giving up is modelled of that.
 */

/* A token serves again when no trace of it is left: in truth each serves once. */
#define on_its_way(queue, x) (queue??[_, _, eval(x), _] || queue??[_, swap, _, eval(x)])
#define traceless(x) \
    (holder != x && !on_its_way(wire[MINE], x) && !on_its_way(late[MINE], x))
#if defined(TWO) || defined(HANDOVER) /* one serves there: two would take minutes */
#define NEXT_TOKEN TOKEN(me)
#else
#define NEXT_TOKEN (token[me] == TOKEN(me) -> OTHER_TOKEN(me) : TOKEN(me))
#endif

#ifdef WRONG_NEW_TOKEN
#define tell() told[TOKEN(me)] = true; told[OTHER_TOKEN(me)] = true
#else
#define tell() told[token[me]] = true; freed[token[me]] = false
#endif

/* What must be possible: each stands behind a guard, as a step of its own. */
#define goal(what) printf(what, me)

#ifdef WRONG_DEADLINE_AFTER_REPLY
#define FROM_SENDING(ttl) LIFE(ttl)
#else
#define FROM_SENDING(ttl) fresh[me]
#endif

/* The holder's word to the waiter; the waiter's own, if it has come first, stands. */
inline resolve(word) {
    if
    :: promise[MATE] == gone && word == unoccupied -> promise[MATE] = 0
    :: promise[MATE] == gone && word != unoccupied -> owes = true
    :: promise[MATE] == promised -> promise[MATE] = word; life[MATE] = fresh[me]
    :: else
    fi
}

proctype Caller(byte me) {
    byte reply, ttl, w, t, a, rest;
    mtype verb, heard, v;
    bool unheard; /* acquire: first counts, from the oldest try that is unanswered */
    bool doubt;   /* what was sent last, or since the last refusal, may have been done unheard */
#ifdef HANDOVER
    bool owes;    /* the token of a mate that has left may be there for nobody */
#endif

start:
#ifdef HANDOVER
    if
    :: owes -> goto giving_back_the_mate_s
    :: else
    fi;
#endif
    if
    :: atomic {
           traceless(NEXT_TOKEN);
#ifdef WRONG_NEW_TOKEN
           token[me] == 0 || traceless(token[me]);
#endif
           freed[token[me]] = false;
           token[me] = NEXT_TOKEN;
           freed[token[me]] = false; told[token[me]] = false;
           printf("%d: wants the lock, token %d\n", me, token[me]);
           verb = acquire
       }
    :: goto end_of_all
    fi;

    /* --- acquire: SET NX first; then with the same token, asking whose the lock is */

trying:
    atomic {
        if
        :: fresh[me] = LIFE(TTL); send(verb, TTL)
        :: !doubt ->
             verb = 0; first[me] = 0; unheard = false; tell();
             goal("%d: => acquire fails: nothing could be sent\n"); goto start
        :: doubt -> goal("%d: => acquire is OutcomeUnknown\n"); goto giving_back
        fi
    }
    atomic {
        await();
        if
        :: heard == lost ->
             if :: !unheard -> first[me] = fresh[me]; unheard = true :: else fi;
             fresh[me] = 0; heard = 0; doubt = true;
#ifndef WRONG_RETRY_BY_PLAIN_SET
             verb = ask;
#endif
#ifdef WRONG_NEW_TOKEN
             token[me] = NEXT_TOKEN; freed[token[me]] = false; told[token[me]] = false;
#endif
             goto trying
        :: heard == left -> goal("%d: => acquire is left early\n"); goto giving_back
        :: heard == crashed -> goto dead
        :: heard == answered && (verb == acquire -> reply == OK : reply == NIL) ->
             life[me] = FROM_SENDING(TTL);
             goal("%d: => taken at once\n"); goto acquired
        :: heard == answered && verb == ask && reply == token[me] ->
             if
             :: unheard && first[me] > 0 ->
#ifdef WRONG_RECOGNISED_FROM_RETRY
                  life[me] = fresh[me];
#else
                  life[me] = first[me];
#endif
                  goal("%d: => taken by a try with a lost reply\n"); goto acquired
             :: unheard && first[me] == 0 -> goal("%d: => taken by a try too old to count\n")
#ifdef WRONG_FORGETS_OLDER
             :: !unheard -> skip
#endif
             fi;
             fresh[me] = 0; doubt = false; heard = 0; reply = 0; verb = 0;
             goto reviving
        :: else ->
             fresh[me] = 0; doubt = false; heard = 0; reply = 0; verb = ask;
#ifdef WRONG_FORGETS_OLDER
             unheard = false; first[me] = 0;
#endif
             if
             :: true -> goal("%d: => acquire is refused, tried again\n"); goto trying
#ifdef HANDOVER
             :: waits[me] = true; goto waiting
#endif
             :: verb = 0; first[me] = 0; unheard = false; tell();
                goal("%d: => acquire is refused\n"); goto start
             fi
        fi
    }

#ifdef HANDOVER
waiting:
    if
    :: atomic { waits[me] -> waits[me] = false; goto trying }
    :: atomic {
           waits[me] -> waits[me] = false; verb = 0; first[me] = 0; unheard = false; tell();
           goal("%d: => a waiter gives up\n"); goto start
       }
    :: atomic { /* by its own word, before the mate's: which sees to what comes of it */
           promise[me] == promised -> verb = 0; first[me] = 0; unheard = false;
#ifdef WRONG_GIVES_BACK_EARLY
           promise[me] = 0; goto giving_back;
#endif
           promise[me] = gone;
           goal("%d: => a chosen waiter leaves before it is told\n"); goto left_alone
       }
    :: atomic {
           promise[me] == given -> promise[me] = 0; /* its mate has set our life */
#ifdef WRONG_COUNTS_FROM_THE_WORD
           life[me] = LIFE(WAITERS_TTL);
#endif
           if
           :: true -> goal("%d: => taken over\n"); goto acquired
           :: true -> goal("%d: => a waiter leaves that was told\n"); goto giving_back
           fi
       }
    :: atomic {
           promise[me] == unoccupied -> promise[me] = 0;
           goal("%d: => nothing came of the hand-over\n"); goto trying
       }
    :: atomic {
           promise[me] == unclear -> promise[me] = 0;
           /* as a try whose reply was lost, sent then */
           doubt = true;
           if
           :: !unheard || first[me] > life[me] -> first[me] = life[me]; unheard = true
           :: else /* an older try of its own */
           fi;
           life[me] = 0;
           if
           :: true -> goal("%d: => unclear what came of the hand-over\n"); goto trying
           :: goto giving_back
           fi
       }
    fi;

left_alone: /* what comes of the hand-over the mate sees to; this one waits for it to be over */
    promise[me] == 0 -> goto start;
#endif

reviving: /* ours, but too old: extended before it counts */
    atomic {
        if
        :: fresh[me] = LIFE(TTL); send(extend, TTL)
        :: true -> goal("%d: => an old lock cannot be extended\n"); goto giving_back
        fi
    }
    atomic {
        await();
        if
        :: heard == lost -> heard = 0; fresh[me] = 0; goto reviving
        :: heard == left -> goto giving_back
        :: heard == crashed -> goto dead
        :: heard == answered && reply == OK ->
             life[me] = FROM_SENDING(TTL);
             goal("%d: => an old lock is extended and counts\n"); goto acquired
        :: else ->
             heard = 0; reply = 0; fresh[me] = 0; verb = ask;
             goal("%d: => an old lock has expired meanwhile\n"); goto trying
        fi
    }

acquired:
    atomic {
        fresh[me] = 0; first[me] = 0; unheard = false; doubt = false;
        heard = 0; reply = 0; verb = 0;
        held[me] = true;
        printf("%d: holds the lock for %d ticks\n", me, life[me])
    }

holding:
    if
#ifndef CALM
    :: atomic { ttl = TTL; goto extending }
#endif
#ifdef SHORTER
    :: atomic { ttl = SHORT; goto extending }
#endif
#ifdef HANDOVER
    :: atomic { waits[MATE] -> waits[MATE] = false; promise[MATE] = promised; goto handing_over }
    :: !waits[MATE] -> goto releasing
#else
    :: goto releasing
#endif
    :: atomic { held[me] = false; goal("%d: => a release is deferred\n"); goto giving_back }
#if !defined(NO_KILL) && !defined(CALM)
    :: atomic { break_connection(); goal("%d: => a holder crashes\n"); goto dead }
#endif
    fi;

    /* --- extend: compare-and-extend. While one is unanswered, the earliest end counts */

extending:
    atomic {
        if
        :: nfull(wire[MINE]) ->
             if
             :: !doubt -> first[me] = life[me]
             :: doubt -> goal("%d: => an extension is sent again\n")
             fi;
#ifndef WRONG_LATER_DEADLINE
             if :: life[me] > LIFE(ttl) -> life[me] = LIFE(ttl) :: else fi;
#endif
             fresh[me] = LIFE(ttl); send(extend, ttl)
        :: !doubt -> ttl = 0; goal("%d: => extend fails: nothing could be sent\n"); goto holding
        :: doubt -> doubt = false; first[me] = 0; ttl = 0;
             goal("%d: => extend is OutcomeUnknown\n"); goto holding
        fi
    }
    atomic {
        await();
        if
        :: heard == lost -> heard = 0; fresh[me] = 0; doubt = true; goto extending
        :: heard == left -> goal("%d: => extend is left early\n")
        :: heard == crashed -> goto dead
        :: heard == answered && reply == OK ->
             life[me] = FROM_SENDING(ttl); goal("%d: => extended\n")
        :: else -> held[me] = false; life[me] = 0; tell(); goal("%d: => extend is LockLost\n")
        fi;
        fresh[me] = 0; first[me] = 0; doubt = false; heard = 0; reply = 0; ttl = 0;
        if
        :: held[me] -> goto holding
        :: else -> goto start
        fi
    }

    /* --- release: compare-and-delete. While one may have been done, the lease does not count */

releasing:
    atomic {
        if
        :: send(release, 0);
#ifndef WRONG_VALID_WHILE_RELEASING
           held[me] = false
#endif
        :: !doubt -> goal("%d: => release fails: nothing could be sent\n"); goto holding
        :: doubt -> held[me] = false; life[me] = 0; doubt = false;
             goal("%d: => release is OutcomeUnknown: no answer\n"); goto start
        fi
    }
    atomic {
        await();
        if
        :: heard == lost -> heard = 0; doubt = true; goto releasing
        :: heard == left -> goto giving_back
        :: heard == crashed -> goto dead
        :: heard == answered && reply == OK ->
             truthful = freed[token[me]]; goal("%d: => release says True\n")
        :: heard == answered && reply == NIL && !doubt ->
             truthful = !freed[token[me]]; goal("%d: => release says False\n")
        :: heard == answered && reply == NIL && doubt && life[me] > 0 ->
#ifdef WRONG_FALSE_IN_TIME
             truthful = !freed[token[me]]
#else
             truthful = freed[token[me]]; goal("%d: => release says True: a lost one did it\n")
#endif
        :: heard == answered && reply == NIL && doubt && life[me] == 0 ->
#ifdef WRONG_TRUE_TOO_LATE
             truthful = freed[token[me]];
#endif
#ifdef WRONG_FALSE_TOO_LATE
             truthful = !freed[token[me]];
#endif
             goal("%d: => release is OutcomeUnknown: too late\n")
        fi;
        demand(truthful);
        tell();
        held[me] = false; life[me] = 0; doubt = false; heard = 0; reply = 0;
        goto start
    }

#ifdef HANDOVER
    /* --- hand over: compare-and-swap to the token of a waiter in the same process, sent once.
     * For the holder a lost answer is that of a release, for the waiter that of a try */

handing_over:
    atomic {
        if
        :: fresh[me] = LIFE(WAITERS_TTL); send(swap, TOKEN(MATE)); held[me] = false
        :: true -> resolve(unoccupied);
             goal("%d: => hand-over fails: nothing could be sent\n"); goto holding
        fi
    }
    atomic {
        await();
        if
        :: heard == lost ->
#ifndef WRONG_NO_WORD
             resolve(unclear);
#endif
             heard = 0; fresh[me] = 0; doubt = true;
             goal("%d: => a hand-over goes on as a release\n"); goto releasing
        :: heard == left -> resolve(unclear); goto giving_back
        :: heard == crashed -> resolve(unclear); goto dead
        :: heard == answered && reply == OK ->
             resolve(given);
             truthful = freed[token[me]]; goal("%d: => handed over\n")
        :: heard == answered && reply == NIL ->
             resolve(unoccupied);
             truthful = !freed[token[me]]; goal("%d: => nothing left to hand over\n")
        fi;
        demand(truthful);
        tell();
        life[me] = 0; fresh[me] = 0; doubt = false; heard = 0; reply = 0;
        goto start
    }

    /* --- the token of a waiter that had left before it was told */

giving_back_the_mate_s:
    atomic {
        if
        :: send_about(release, TOKEN(MATE), 0)
        :: true -> goal("%d: => what may be there for its mate is left to its ttl\n");
             owes = false; promise[MATE] = 0; goto start
        fi
    }
    atomic {
        await();
        reply = 0;
        if
        :: heard == lost -> heard = 0; goto giving_back_the_mate_s
        :: heard == left -> heard = 0; owes = false; promise[MATE] = 0; goto start
        :: heard == crashed -> goto dead
        :: else ->
             heard = 0; owes = false; promise[MATE] = 0;
             told[TOKEN(MATE)] = true; freed[TOKEN(MATE)] = false;
             goal("%d: => given back for its mate\n"); goto start
        fi
    }
#endif

    /* --- what may be there for nobody is given back, in the background */

giving_back:
    atomic {
        held[me] = false; life[me] = 0; fresh[me] = 0; first[me] = 0;
        unheard = false; doubt = false; heard = 0; reply = 0; verb = 0; ttl = 0;
#ifdef WRONG_NO_GIVING_BACK
        tell(); goto start;
#endif
        if
        :: send(release, 0)
        :: true -> goal("%d: => what may be there is left to its ttl\n"); goto start
        fi
    }
    atomic {
        await();
        reply = 0;
        if
        :: heard == lost -> heard = 0; goto giving_back
        :: heard == left -> heard = 0; goto start
        :: heard == crashed -> goto dead
        :: else -> heard = 0; tell(); goal("%d: => given back\n"); goto start
        fi
    }

dead: /* whoever comes in its place is somebody else, who ends no connection of the dead */
    atomic {
        held[me] = false; life[me] = 0; fresh[me] = 0; first[me] = 0;
        unheard = false; doubt = false; heard = 0; reply = 0; verb = 0; ttl = 0
    }
#ifdef HANDOVER
    if :: owes -> owes = false; promise[MATE] = 0 :: else fi;
    promise[me] != promised && promise[me] != gone -> promise[me] = 0;
#endif
    empty(late[MINE]) -> goto start;

end_of_all: /* whoever still waits for something when all have come here waits in vain */
    false
}
