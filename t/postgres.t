# Tests for a store in PostgreSQL: hosts that race, servers that are frozen,
# restored or gone, answers that are lost, and what others write into tables.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(sleep time);

use Postgres;
use Receiver qw(wait_for);
use Relay;

Postgres->usable;

my $pg    = Postgres->new;
my $relay = Relay->new($pg->{port});
my @hosts = map { $pg->driver(name => $_) } qw(a b c);
my ($first, $second) = @hosts;

my $fresh = 0;
sub secret { return sprintf 'plain-secret-%020d', ++$fresh }
sub id { return substr sha256_hex($_[0]), 0, 16 }

sub took {
    my ($code) = @_;
    my $start = time;
    my $value = $code->();
    return ($value, time - $start);
}

# changes, and what the others see of them

my $s = secret();
is $first->ask("handshake /a first $s"), 'ADDED', 'a handshake';
like $first->log, qr/zone "hooks" is new in PostgreSQL/, 'a new zone is told';
is $first->ask("handshake /a first $s"), 'HELD', 'the same once more';
is $second->ask("handshake /a first $s"), 'HELD', 'on another host';
is $second->ask('handshake /a first ' . secret()), 'REFUSED', 'another secret';
is $second->ask('find /a 0'), "OK $s:new:", 'the other host knows it';
is $second->ask("note /a $s"), 'CHANGED', 'a delivery is noted';
is $second->ask("note /a $s"), 'HELD', 'once';
is $first->ask('find /a 1'), "OK $s:verified:", 'and seen';
is $second->ask('find /none 0'), 'DECLINED', 'an unknown key';
is $second->ask('entries'), 1, 'which leaves no entry behind';
is $second->ask('find /a 1 cancel'), 'CANCELLED', 'a look-up is cancelled';

my $p = secret();
is $first->ask("handshake /p1 confirm $p"), 'ADDED', 'a pending secret';
is $first->ask("handshake /p2 confirm $p"), 'ADDED', 'under two keys';
is $second->ask('find /p1 1'), "OK $p:pending:", 'is pending';
is $second->ask('confirm ' . secret() . ' 1'), 'ABSENT', 'none is confirmed';
is $second->ask("confirm $p 1200"), 'CHANGED', 'confirmed by another host';
is $first->ask("find /p$_ 1"), "OK $p:new:1200", "under key $_" for 1, 2;
is $first->ask("confirm $p 1200"), 'HELD', 'and once more';
is $second->ask("put /p1 $s"), 'ADDED', 'another secret beside it';
is $first->ask('forget 120'), 'ABSENT', 'a webhook that is not known';
is $second->ask('find /p2 0'), "OK $p:new:1200", 'in the zone of one';
is $second->ask('forget 1200'), 'CHANGED', 'the webhook is deleted';
is $second->ask('find /p2 0'), 'DECLINED', 'there its secret is gone at once';
is $first->ask('find /p1 1'), "OK $s:new:", 'the other one stays';
is $first->ask('forget 1200'), 'ABSENT', 'once';
is $first->ask("revoke /p1 $s"), 'CHANGED', 'the rest';
$first->ask("handshake /p$_ confirm $p") for 1, 2;
is $first->ask("confirm $p 1200"), 'CHANGED', 'as it was';
{
    my $q = secret();
    $first->ask("handshake /$_ confirm $q") for qw(full room);
    $first->ask('put /full ' . secret()) for 1 .. 16;
    is $first->ask("confirm $q 13"), 'REFUSED', 'no room under one of its keys';
    is $first->ask("find /room 1"), "OK $q:new:13", 'but under the other';
    $first->ask("revoke /$_") for qw(full room);
}
is $first->ask("revoke /p1 $p"),   'CHANGED',  'one is revoked';
is $first->ask("revoke /p1 $p"),   'ABSENT',   'once';
is $first->ask('find /p1 1'),      'DECLINED', 'and gone';
is $first->ask("put /p1 $p"),      'ADDED',    'put again';
is $first->ask('handshake /g gateway ' . secret()), 'REFUSED',
    'no create call is in flight';
$pg->sql(q{INSERT INTO asana_hook.creates SELECT 'hooks', 'x',
    extract(epoch FROM now())});
is $first->ask('handshake /g gateway ' . secret()), 'ADDED',
    'one is, on another host';

# a race for each key: one secret wins, the same everywhere

{
    my (%tags, %won, %told);
    for my $k (1 .. 200) {
        my @order = sort { rand() <=> 0.5 } 0 .. 2;
        for my $h (@order[0, 1]) {
            my $secret = secret();
            push @{$tags{$k}},
                [$h, $secret, $hosts[$h]->send("handshake /race/$k first $secret")];
        }
    }
    for my $k (1 .. 200) {
        for (@{$tags{$k}}) {
            my ($h, $secret, $tag) = @$_;
            my $answer = $hosts[$h]->wait($tag);
            push @{$won{$k}}, $secret if $answer eq 'ADDED';
            $told{$answer}++;
        }
    }
    is_deeply \%told, {ADDED => 200, REFUSED => 200}, 'one of two wins a race';
    my $same = grep {
        my $k = $_;
        3 == grep { $_->ask("find /race/$k 0") eq "OK $won{$k}[0]:new:" } @hosts
    } 1 .. 200;
    is $same, 200, 'and all hosts know it';
}

# a flood of forgeries: queries are few, and all are answered

{
    my $before = () = $pg->log =~ /READ ONLY/g;
    my ($answers, $seconds) = took(sub {
        my @tags = map { $first->send("find /random/$_ 1") } 1 .. 1000;
        return scalar grep { $first->wait($_) eq 'DECLINED' } @tags;
    });
    my $queries = (() = $pg->log =~ /READ ONLY/g) - $before;
    is $answers, 1000, 'unknown keys, 1000 of them';
    # 20 a second and the polls of three hosts, in the log twice
    cmp_ok $queries, '<=', 2 * (20 * $seconds + 12 * $seconds + 6),
        "$queries lines on queries";
}

{
    my (undef, $seconds)
        = took(sub { $first->ask("find /one/$_ 1") for 1 .. 21 });
    cmp_ok $seconds, '>=', 0.95, 'one after the other, 20 a second';
}

# what was read after a change is not forgotten when the journal tells of it

{
    my ($key, $other) = ('/kept', '/race/9');
    $second->ask("find $other 0");
    my $secret = secret();
    my $before = $second->ask('entries');
    $first->ask("handshake $key first $secret");
    is $second->ask("find $key 0"), "OK $secret:new:", 'a new secret is read';
    is $second->ask('entries'), $before + 1, 'and kept';
    $first->ask("revoke $other");
    ok wait_for(sub { $second->ask("find $other 0") eq 'DECLINED' }, 5),
        'the journal was read, up to a later change';
    is $second->ask('entries'), $before, 'and it is still kept';
    $first->ask("revoke $key");
    ok wait_for(sub { $second->ask("find $key 0") eq 'DECLINED' }, 5),
        'until it is changed again';
}

# a revocation reaches the others

{
    my $worst = 0;
    for my $k (1 .. 8) {
        $second->ask("find /race/$k 0");
        $first->ask("revoke /race/$k");
        is $first->ask("find /race/$k 0"), 'DECLINED', 'revoked here';
        my (undef, $time) = took(sub {
            wait_for(sub { $second->ask("find /race/$k 0") eq 'DECLINED' }, 5);
        });
        $worst = $time if $time > $worst;
    }
    cmp_ok $worst, '<', 0.6, sprintf 'revoked there after %.0f ms at most',
        $worst * 1000;
}

# workers of one host: one of them polls, and another one takes over

{
    my @workers;
    for (1, 2) {
        push @workers,
            $pg->driver(name => "w$_", host => 'w', timeout => 500);
        like $workers[-1]->ask('find /race/10 0'), qr/^OK/, 'a worker looks up';
    }
    $workers[0]->crash;
    $first->ask('revoke /race/10');
    ok wait_for(sub { $workers[1]->ask('find /race/10 0') eq 'DECLINED' }, 4),
        'a worker goes on for one that was killed';
}

# lost answers and frozen servers

my $far = $pg->driver(
    name    => 'far',
    uri     => $pg->uri($relay->{port}),
    timeout => 700,
    stale   => 3
);
is $far->ask("handshake /far first $s"), 'ADDED', 'through a relay';

$relay->mode('swallow');
my $lost = secret();
is $far->ask("handshake /lost first $lost"), 'FAILED',
    'the answer to a commit is lost';
is $first->ask('find /lost 1'), "OK $lost:new:", 'it was committed';
$relay->mode('pass');
ok wait_for(sub { $far->ask("handshake /lost first $lost") eq 'HELD' }, 10),
    'and is known when it comes again';

{
    $far->ask('find /far 0');
    $relay->mode('freeze');
    my ($answer, $time) = took(sub { $far->ask('find /far 0') });
    is $answer, "OK $s:new:", 'cached secrets, server frozen';
    cmp_ok $time, '<', 0.1, 'at once';

    ($answer, $time) = took(sub { $far->ask('find /other 1') });
    is $answer, 'ERROR', 'others are not known';
    cmp_ok $time, '<', 1.5, 'and the deadline holds';

    ($answer, $time) = took(sub { $far->ask('handshake /x first ' . secret()) });
    is $answer, 'FAILED', 'nor are handshakes accepted';
    cmp_ok $time, '<', 1.5, 'and the deadline holds';

    ($answer, $time) = took(sub { $far->ask('handshake /y first ' . secret()) });
    is $answer, 'FAILED', 'once more';
    cmp_ok $time, '<', 0.5, 'without waiting';

    ($answer, $time) = took(sub { $far->ask('find /other 1') });
    is $answer, 'ERROR', 'nor does a look-up';
    cmp_ok $time, '<', 0.5, 'wait';

    like $far->ask('stat'), qr/^[01] 0 /, 'it is not writable';

    ok wait_for(sub { $far->ask('find /far 0') eq 'ERROR' }, 6),
        'stale secrets are not believed';

    $relay->mode('pass');
    ok wait_for(sub { $far->ask('find /far 0') eq "OK $s:new:" }, 12),
        'until the server is back';
    ok wait_for(sub { $far->ask('handshake /z first ' . secret()) eq 'ADDED' },
        12), 'handshakes as well';
    like $far->log, qr/did not answer within "timeout"/, 'it is told';
    like $far->log, qr/PostgreSQL answers again/, 'both times';
}

# a worker that is told to end while its threads wait

{
    my $frozen = $pg->driver(
        name    => 'frozen',
        uri     => $pg->uri($relay->{port}),
        timeout => 1000
    );
    $frozen->ask("find /far 1");
    $relay->mode('freeze');
    $frozen->send('handshake /q first ' . secret());
    $frozen->send('find /q 1');
    sleep 0.1;
    cmp_ok $frozen->quit, '<', 2000, 'a worker ends within its timeout';
    $relay->mode('pass');
}

# a restart: connections are dead, nobody hears of it

{
    $pg->stop('QUIT');
    is $first->ask('find /race/20 0') =~ /^OK/, 1, 'cached secrets, no server';
    is $first->ask('find /none 1'), 'ERROR', 'nothing is said of others';
    $pg->start;
    ok wait_for(sub { $first->ask('find /none 1') eq 'DECLINED' }, 12),
        'the server is back';
    $pg->stop->start;
    is $hosts[2]->ask('handshake /race/20 first ' . secret()), 'REFUSED',
        'a quick restart is not noticed by who did not ask meanwhile';
}

# a host that is frozen inside its transaction

{
    wait_for(sub { $_->ask('stat') =~ /^1 1/ }, 12) for @hosts;

    # a contact of before is no connection of now

    ok wait_for(sub { $second->ask('find /race/30 1') =~ /^OK/ }, 12),
        'look-ups are answered';
    my $pid = fork;
    if (!$pid) {
        $pg->sql(q{BEGIN; SET idle_in_transaction_session_timeout = 3000;
            SELECT FROM asana_hook.zones FOR UPDATE; SELECT pg_sleep(3.5)},
            undef, 1);
        POSIX::_exit(0);
    }
    sleep 0.3;
    my ($answer, $time)
        = took(sub { $hosts[2]->ask('handshake /l first ' . secret()) });
    is $answer, 'FAILED', 'the lock is not to be had';
    cmp_ok $time, '<', 2.8, 'within the timeout';
    is $second->ask('find /race/30 1') =~ /^OK/, 1, 'look-ups go on';
    waitpid $pid, 0;
}

# to count the secrets can take longer than "timeout", which ends no poll for good

{
    my $failed = () = $first->log =~ /PostgreSQL failed/g;
    my $pid = fork;
    if (!$pid) {
        $pg->sql('BEGIN; LOCK TABLE asana_hook.secrets; SELECT pg_sleep(60)',
            undef, 1);
        POSIX::_exit(0);
    }
    my $failures = sub {
        return (() = $first->log =~ /PostgreSQL failed/g) - $failed;
    };
    ok wait_for(sub { $first->ask('stat') =~ /^0 / && $failures->() }),
        'a poll fails, as secrets cannot be counted';
    ok wait_for(sub { $first->ask('stat') =~ /^1 / }),
        'the next one reads the journal all the same';
    is $failures->(), 1, 'and does not fail';
    $pg->sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()});
    waitpid $pid, 0;
}

# the tables, written to by somebody who has no key

{
    my $set = sub {
        $pg->sql("UPDATE asana_hook.secrets SET $_[0] WHERE key = '$_[1]'");
    };
    for ([51, 'sealed = set_byte(sealed, 20, 255 - get_byte(sealed, 20))', 'a bit flipped'],
        [52, "key = '/moved'", 'a row moved'],
        [53, 'sealed = substring(sealed FROM 1 FOR 40)', 'a row cut'],
        [54, "id = '12345678'", 'the id changed'])
    {
        my ($k, $change, $what) = @$_;
        $set->($change, "/race/$k");
        my $key = $k == 52 ? '/moved' : "/race/$k";
        is $first->ask("find $key 1"), 'ERROR', "$what: not believed";
        is $first->ask("handshake $key first " . secret()), 'FAILED',
            "$what: not replaced by a stranger";
        is $first->ask("revoke $key"), 'CHANGED', "$what: revoked";
        is $first->ask("find $key 1"), 'DECLINED', "$what: gone";
    }
    like $first->log, qr{a secret of key "/race/51" was changed}, 'it is told';

    # what cannot be read is not encrypted anew, whatever its time says
    $pg->sql(q{INSERT INTO asana_hook.secrets SELECT 'hooks', '/future', id,
        false, 9999999999, 0, 0, 0, 0, '', decode('01', 'hex')
        FROM (VALUES ('12345678'::bytea), ('87654321')) v(id)});
    $first->ask('revoke /future 12345678 id');
    is $pg->sql(q{SELECT string_agg(encode(id, 'escape') || length(sealed), ' ')
        FROM asana_hook.secrets WHERE key = '/future'}), '876543211',
        'one of two that cannot be read is revoked, and the other one stays';
    is $first->ask('find /future 1'), 'ERROR', 'and is not believed';

    my $x = secret();
    $first->ask("handshake /made confirm $x");
    $set->('pending = false', '/made');
    is $first->ask('find /made 1'), 'ERROR', 'a pending secret made confirmed';

    my $other = $pg->driver(name => 'other', key => $pg->key_file('other', 2));
    is $other->ask('find /race/60 1'), 'ERROR', 'an unknown key';
    my $id = substr sha256_hex("\1" x 32), 0, 8;
    like $other->log, qr/encrypted by key $id, which "encryption_key" does not/,
        'it is named';
    my $both = $pg->driver(name => 'both', key => $pg->key_file('both', 2, 1));
    is $both->ask('find /race/60 1') =~ /^OK/, 1, 'two keys: the old one';
    is $both->ask("put /new $x"), 'ADDED', 'and the new one';
    is $other->ask('find /new 1'), "OK $x:new:", 'encrypts';
}

# secrets are encrypted anew by another key

{
    my @zone = (zone => 'rotated', name => 'old');
    my $old = $pg->driver(@zone);
    my @secrets = map { secret() } 1 .. 2500;
    my $added = 0;
    for my $part (0 .. 4) {
        my @tags = map {
            $old->send('put /rot/' . ($_ >> 1) . " $secrets[$_ - 1]")
        } 500 * $part + 1 .. 500 * $part + 500;
        $added += grep { $old->wait($_) eq 'ADDED' } @tags;
    }
    is $added, 2500, '2,500 secrets';
    my ($p, $q) = map { secret() } 1, 2;
    is $old->ask("handshake /p confirm $p"), 'ADDED', 'a pending one';
    my $third = $pg->driver(@zone, name => 'third',
        key => $pg->key_file('third', 3));
    is $third->ask("put /third $q"), 'ADDED', 'one of a third key';
    my $new = $pg->driver(@zone, name => 'new', key => $pg->key_file('new', 2, 1));
    my @ids = map { substr sha256_hex(chr($_) x 32), 0, 4 } 1 .. 3;
    $new->ask('stat');
    ok wait_for(sub { $new->ask('used')
        eq "USED $ids[1]=0 $ids[0]=2501 $ids[2]=1" }, 12), 'counted by the key'
        or diag $new->ask('used');
    my $known = $new->ask('find /rot/9 0');
    my $position = $pg->sql(q{SELECT position FROM asana_hook.zones
        WHERE zone = 'rotated'});
    is $new->ask('reseal'), 'CHANGED 1000 1502', 'encrypted anew, 1,000 at once';
    my @two = map { $new->send($_) } 'reseal', "confirm $p 17", 'reseal';
    my @answers = map { $new->wait($_) } @two;
    is $answers[1], 'CHANGED', 'a pending one is confirmed meanwhile';
    1 while $new->ask('reseal') =~ /^CHANGED/;
    is $new->ask('reseal'), 'HELD 0 1', 'the third key is not there';
    is $pg->sql(q{SELECT count(*) FROM asana_hook.journal WHERE position > }
            . $position . q{ AND zone = 'rotated' AND keys <> '{}'
            AND keys <> ARRAY['/p'::bytea]}), '0',
        'the journal names nothing that has not changed';
    is $new->ask('find /rot/9 0'), $known, 'what is in the cache stays';
    my $only = $pg->driver(@zone, name => 'only', key => $pg->key_file('only', 2));
    my @finds = map { $only->send("find /rot/$_ 1") } 0 .. 1250;
    is scalar(grep { $only->wait($_) =~ /^OK/ } @finds), 1251,
        'all can be read without the old key';
    is $only->ask('find /p 1'), "OK $p:new:17", 'also the one that was pending';
    is $only->ask('find /third 1'), 'ERROR', 'but not the third';
    $pg->sql(q{UPDATE asana_hook.secrets SET sealed =
        set_byte(sealed, 20, 255 - get_byte(sealed, 20)) WHERE key = '/third'});
    my $all = $pg->driver(@zone, name => 'all', key => $pg->key_file('all', 2, 3));
    is $all->ask('reseal'), 'HELD 0 1', 'what was changed is left as it is';
    like $all->log, qr{of key "/third" was changed}, 'and told';
    $_->quit for $old, $third, $new, $only, $all;
}

# what goes back in time empties the cache

{
    wait_for(sub { $second->ask('stat') =~ /^1 1/ }, 12);
    is $second->ask('find /race/70 0') =~ /^OK/, 1, 'a secret in the cache';
    $pg->sql(q{BEGIN; DELETE FROM asana_hook.secrets WHERE key = '/race/70';
        DELETE FROM asana_hook.journal WHERE position > (SELECT
            min(position) + (10 << 20) FROM asana_hook.journal);
        UPDATE asana_hook.zones SET position = (SELECT max(position)
            FROM asana_hook.journal); COMMIT});
    ok wait_for(sub { $second->ask('find /race/70 0') eq 'DECLINED' }, 5),
        'an older journal: the cache is not believed';
    like $second->log, qr/journal in PostgreSQL does not go on where this host/, 'told';

    is $second->ask('find /race/71 0') =~ /^OK/, 1, 'a secret in the cache';
    sleep 0.7;
    $pg->sql(q{BEGIN; DELETE FROM asana_hook.secrets WHERE key = '/race/71';
        INSERT INTO asana_hook.journal SELECT zone, position + (5 << 20), '{}'
            FROM asana_hook.zones;
        DELETE FROM asana_hook.journal WHERE position <
            (SELECT max(position) FROM asana_hook.journal);
        UPDATE asana_hook.zones SET position = (SELECT max(position)
            FROM asana_hook.journal); COMMIT});
    ok wait_for(sub { $second->ask('find /race/71 0') eq 'DECLINED' }, 5),
        'a purged journal: the same';
}

# what is not durable

{
    $pg->sql('ALTER SYSTEM SET synchronous_commit = off');
    $pg->sql('SELECT pg_reload_conf()');
    my $d = $pg->driver(name => 'durable');
    is $d->ask('handshake /d first ' . secret()), 'ADDED',
        'synchronous_commit = off';
    like $pg->log, qr/set_config\('synchronous_commit','on',true\)/,
        'is on in the transaction';

    # a standby that never comes: the wait is cancelled, with a warning
    $pg->sql(q{ALTER SYSTEM SET synchronous_standby_names = 'none'});
    $pg->sql('SELECT pg_reload_conf()');
    sleep 0.2;
    my $u = secret();
    my $tag = $d->send("handshake /u first $u");
    wait_for(sub { $pg->sql(q{SELECT count(pg_cancel_backend(pid)) FROM
        pg_stat_activity WHERE wait_event = 'SyncRep'}) }, 1.5);
    is $d->wait($tag), 'FAILED', 'a commit that is not replicated';
    like $d->log, qr/canceling wait for synchronous replication/, 'told';
    sleep 1.1;
    is $d->ask("handshake /u first $u"), 'FAILED', 'nor is it when it is held';
    $pg->sql(q{ALTER SYSTEM RESET ALL});
    $pg->sql('SELECT pg_reload_conf()');
    ok wait_for(sub { $d->ask("handshake /u first $u") eq 'HELD' }, 12),
        'until the standby is there';

    $pg->append('postgresql.conf', "fsync = off\n");
    $pg->sql('SELECT pg_reload_conf()');
    ok wait_for(sub { $d->ask('handshake /f first ' . secret()) eq 'FAILED' },
        5), 'fsync = off is refused';
    like $d->log, qr/its "fsync" is "off"/, 'told';
    $pg->append('postgresql.conf', "fsync = on\n");
    $pg->sql('SELECT pg_reload_conf()');
}

# a database without tables, or with newer ones

{
    my $d = $pg->driver(name => 'bare', uri => $pg->uri =~ s/hooks$/postgres/r);
    is $d->ask('find /a 1'), 'ERROR', 'no tables';
    like $d->log, qr/no tables for the module; run "asana_hook.sql"/, 'told';
    $pg->sql('UPDATE asana_hook.schema SET version = 2');
    $d = $pg->driver(name => 'newer');
    is $d->ask('find /a 1'), 'ERROR', 'newer tables';
    like $d->log, qr/tables are of another version/, 'told';
    $pg->sql('UPDATE asana_hook.schema SET version = 1');
}

# the first of two servers is silent

{
    my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5);
    my $d = $pg->driver(
        name => 'two',
        timeout => 500,
        uri  => sprintf 'postgresql://asana_hook@127.0.0.1:%d,127.0.0.1:%d/hooks',
        $silent->sockport, $pg->{port}
    );
    ok wait_for(sub { $d->ask('find /a 1') eq "OK $s:verified:" }, 5),
        'the other one is found';
}

unlike $pg->log, qr/plain-secret/, 'no secret in the log of PostgreSQL';
unlike $pg->log, qr/@{[unpack 'H*', 'plain-secret']}/, 'nor in hex';
is qx(grep -rl plain-secret $pg->{dir}/pg/data), '', 'nor in its files';
unlike $_->log, qr/plain-secret/, 'nor in the log of nginx' for @hosts, $far;

$pg->end;
done_testing;
