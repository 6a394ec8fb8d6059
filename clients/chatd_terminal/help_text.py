"""The program's own texts: the help screen, and what a first user sees."""

from __future__ import annotations

HELP = """\
# Conversations
/dm NAME              a conversation with NAME
/group TITLE NAME…    a new group; "quotes" around a title of several words
Tab, Shift-Tab        on an empty line: next, previous conversation
Ctrl-N, Ctrl-P        the same, at any time; what is half typed waits in its own
click                 opens a conversation

# Writing
Enter                 sends; Alt-Enter begins a new line, pasted lines stay together
Tab                   completes a command, a @name, a name, a role, a device
↑ on an empty line    edits your last message; ↑ ↓ the one before, behind; Esc leaves it as it is
//text                sends /text

# One message
Ctrl-↑ or F2, click   selects a message; ↑ ↓ move, Esc ends
    r  reply          e  edit           d  delete         t  its thread
    +  react          p  pin, unpin     o  to what it replies to
    l  opens its links in the browser, after a question; without a desktop shows them
    1 to 6            react with 👍 🎉 😂 😮 😢 🙏, once more takes it back
on … and ✗            e takes it back to be mended, d forgets it, unless it was sent already
/react NAME           the newest message; NAME is an emoji, or what Tab completes: thumbs, heart, …
/reply TEXT, /thread  the newest message; /pin and /unpin, too
/edit TEXT, /delete   your own newest

# Finding
/search WORDS         in all conversations; "a phrase", begin*, from:NAME, in:here, in:NAME, \
before:2026-01-31, after:2026-01-31, by:rank; Enter goes there
/pins                 the pinned messages of the open conversation
PgUp, PgDn, wheel     scroll; older messages are loaded
End on an empty line  back to the newest

# The open group
/members, /leave      who is in it; leaves it
/add NAME…            adds members; /remove NAME…
/role NAME ROLE       makes NAME owner, admin or member
/rename TITLE         another title

# Yourself
/mute [8h|2d]         the open conversation, for good or for a time; /unmute
/block NAME           refuses their 1:1 messages; /unblock NAME; /blocked
/devices              where you are signed in
/signout DEVICE       ends the sessions of a device
/password             another password, typed out of sight; it signs your other devices out
/privacy              what others see of you; /privacy presence off, /privacy last_seen on
/limits               how much you may still do
/quit                 leaves, as Ctrl-C on an empty line does; what waits is sent at the next start
F1, /help   Ctrl-L    this page; draws the screen anew; Ctrl-Z suspends
Ctrl-A, E, W, K, U    begin and end of the line; erase a word, to the end, all (leaves an edit, as Ctrl-C)

# Marks
…  waits to be stored · ✓  stored · ✓✓  all others have it · ◉  all others have read it · ✗  refused
●  there · ◐  away · (3)  unread · @  names you · ~  muted · …  types · ✎  half typed
Enter on an empty line tries to connect at once, when there is no connection."""

FIRST_STEPS = """\
No conversation is open.

/dm NAME              begins one with NAME
/group TITLE NAME…    begins a group
Tab                   opens the next one of the list
/help                 shows everything else"""
