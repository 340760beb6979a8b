# Tests for asana-hook-copy: a zone moves from a directory of one host to
# PostgreSQL, and back.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use Postgres;
use Receiver qw(raw sign wait_for);
use Stored qw(load pairs record records value);

Postgres->usable;

for (['LMDB_File', 'liblmdb-file-perl'], ['DBD::Pg', 'libdbd-pg-perl'],
    ['Crypt::AuthEnc::GCM', 'libcryptx-perl'])
{
    my ($module, $package) = @{$_};
    plan skip_all => "needs $module ($package on Debian)"
        if !eval "require $module";    ## no critic (ProhibitStringyEval)
}
plan skip_all => 'make found no libpq'
    if !$ENV{ASANA_HOOK_STATIC}
    && !-f 'build/ngx_http_asana_hook_postgres_module.so';

my $pg     = Postgres->new;
my $body   = '{"events":[{"action":"changed"}]}';
my $n      = 2000;
my @all    = map {"/hook/$_"} 1 .. $n;
my $enroll = 'asana_hook_enroll $enroll;';
my $map    = 'map $arg_p $enroll { default first; confirm confirm; }';
my $api    = 'location /api { asana_hook_api hooks write=on; }';
my $key    = "$pg->{dir}/key";
my $uri    = $pg->uri;

# one host with a directory

my $one = Receiver->new(location => $enroll, http => $map, server => $api)
    ->app->run;
my $state = "$one->{dir}/state";

sub secret { return "plain-secret$_[0]-0123456789" }

sub enroll {
    my ($t, @keys) = @_;
    return scalar grep { $_->{status} == 200 }
        $t->many(map { raw($_, 'X-Hook-Secret: ' . secret($_), '') } @keys);
}

sub verify {
    my ($t, @keys) = @_;
    return scalar grep { $_->{status} == 200 } $t->many(map {
        raw($_, 'X-Hook-Signature: ' . sign(secret($_), $body), $body)
    } @keys);
}

# Runs the program; returns its exit code, what it printed, and numbers.

sub start {
    my @args = @_;
    my $pid = fork;
    die "fork: $!\n" if !defined $pid;
    return $pid if $pid;
    open STDOUT, '>', "$pg->{dir}/out" or POSIX::_exit(127);
    open STDERR, '>&', \*STDOUT or POSIX::_exit(127);
    exec $^X, 'tools/asana-hook-copy', @args or POSIX::_exit(127);
}

my ($text, %number);

sub copy {
    my @args = @_;
    waitpid start(@args), 0;
    my $code = $? >> 8;
    open my $f, '<', "$pg->{dir}/out" or die "out: $!\n";
    $text = do { local $/ = undef; <$f> };
    close $f;
    %number = $text =~ /^(\w[a-z ]*?) +(\d+)  /mg;
    fail("nothing of Perl, and no secrets: $text")
        if $text =~ / line \d+|plain-secret|(?:0[123]){32}/;
    return $code;
}

sub rows {
    return $pg->sql('SELECT count(*) FROM asana_hook.secrets');
}

sub own { my ($dir) = @_; system 'chown', '-R', 'www-data:', $dir if !$>; return }

is enroll($one, @all), $n, "$n handshakes";
is enroll($one, map {"/wait/$_?p=confirm"} 1 .. 3), 3, 'and 3 that wait';
is verify($one, @all[0 .. 9]), 10, 'some have verified deliveries';
$n += 3;

# what is refused, and a dry run

my @zone   = (qw(--zone hooks));
my @to_key = (@zone, '--to-key', $key);

is copy('--help'), 0, '--help';
like $text, qr/^usage: asana-hook-copy/, 'tells how';
is copy(@$_), 2, "wrong use: @$_"
    for [], [$state], ['--none', $state, $uri], [$state, $uri],
    ['--to-key', $key, $state, $uri], [@zone, $state, $state],
    [@to_key, $state, $uri =~ s/asana_hook@/asana_hook:word@/r];
unlike $text, qr/word@/, 'without the password';
is copy(@to_key, "$pg->{dir}/none", $uri), 3, 'no directory';
is copy(@to_key, $pg->{dir}, $uri), 3, 'a directory without a store';
is copy(@to_key, $state, $pg->uri(1)), 3, 'no server';
like $text, qr/PostgreSQL: .*refused/, 'says why';
is copy(@zone, '--to-key', "$pg->{dir}/no.key", $state, $uri), 3, 'no key file';
chmod 0640, $key;
is copy(@to_key, $state, $uri), 3, 'a key file that others can read';
like $text, qr/chmod 600/, 'says what to do';
chmod 0600, $key;

is copy('--dry-run', @to_key, $state, $uri), 0, 'a dry run';
is $number{added}, $n, 'tells what it would add';
is rows(), 0, 'and writes nothing';
is $pg->sql('SELECT count(*) FROM asana_hook.zones'), 0, 'at all';

# a module that is missing

{
    mkdir "$pg->{dir}/perl";
    my ($at, $package);
    for (['LMDB_File', 'liblmdb-file-perl'], ['DBI', 'libdbi-perl']) {
        ($at, $package) = ("$pg->{dir}/perl/$_->[0].pm", $_->[1]);
        open my $f, '>', $at or die "$at: $!\n";
        print {$f} "die 'is not here';\n";
        close $f;
        local $ENV{PERL5LIB} = "$pg->{dir}/perl";
        is copy(@to_key, $state, $uri), 3, "without $_->[0]";
        like $text, qr/apt-get install \Q$package\E\n\z/, 'names its package';
        unlink $at;
    }
}

# into the database

my $took = time;
is copy(@to_key, $state, $uri), 0, 'into the database' or diag $text;
$took = time - $took;
my $seconds = $took;
is_deeply \%number, {
    keys            => $n,
    secrets         => $n,
    pending         => 3,
    added           => $n,
    'already there' => 0,
    replaced        => 0,
    'left alone'    => 0,
    unreadable      => 0
}, 'its numbers' or diag $text;
is rows(), $n, 'all rows';
is $pg->sql('SELECT count(*) FROM asana_hook.secrets WHERE pending'), 3,
    'those that wait';
is $pg->sql('SELECT count(*) FROM asana_hook.secrets WHERE verified>0'), 10,
    'those that verified';
is $pg->sql('SELECT sum(cardinality(keys)) FROM asana_hook.journal'), $n,
    'the journal names all keys';

is copy(@to_key, $state, $uri), 0, 'once more';
is "$number{added} $number{'already there'}", "0 $n", 'all is there already';

my $fleet = Receiver->new(
    fleet    => $uri,
    zone     => "encryption_key=$key poll=300ms",
    location => $enroll,
    http     => $map,
    server   => $api
)->app->run;
is verify($fleet, @all), @all, 'a fleet verifies deliveries of all of them';
is verify($fleet, '/wait/1'), 0, 'but not of those that wait';
is $fleet->call('PUT', '/api/hooks?key=localhost/wait/1',
    ['X-Hook-Secret: ' . secret('/wait/1?p=confirm')])->{status}, 200,
    'which can be confirmed';

# killed at any moment, the database has what it had, or all that is new

my ($killed, %left) = (0);
my $same = 'SELECT count(*) FROM asana_hook.secrets JOIN good USING (key,id)';
$pg->sql('CREATE TABLE good AS TABLE asana_hook.secrets');
for my $round (1 .. 8) {
    $pg->sql('DELETE FROM asana_hook.secrets');
    $pg->sql('INSERT INTO asana_hook.secrets TABLE good');
    $pg->sql(q(UPDATE asana_hook.secrets SET id=substr(sha256(id),1,8)
        WHERE key<>'localhost/hook/1'));
    is $pg->sql($same), 1, 'other secrets' if $round == 1;
    my $pid = start('--replace', @to_key, $state, $uri);
    sleep $took * (0.3 + rand 0.9);
    $killed++ if kill 'KILL', $pid;
    waitpid $pid, 0;
    wait_for(sub {
        !$pg->sql(q(SELECT count(*) FROM pg_stat_activity
            WHERE application_name='asana-hook-copy'))
    });
    $left{ rows() . ' ' . $pg->sql($same) }++;
}
is join(',', grep { !/^$n (?:1|$n)$/ } keys %left), '',
    "killed $killed times, it is as it was, or whole"
    or diag explain \%left;
ok $killed, 'it was killed';
is copy('--replace', @to_key, $state, $uri), 0, 'it works after that';
is $pg->sql($same), $n, 'whole';

# nothing of it is readable there

{
    $pg->sql('CHECKPOINT');
    unlike $pg->log, qr/plain-secret/, 'no secret is in the log of PostgreSQL';
    is scalar(qx(grep -rl plain-secret $pg->{dir}/pg)), '',
        'nor in any of its files';
}

# other secrets for a key

my $odd = "odd key\xff";
(my $escaped = "localhost/$odd") =~ s/([^\w.~-])/sprintf '%%%02X', ord $1/ge;
(my $path = $odd) =~ s/([^\w])/sprintf '%%%02X', ord $1/ge;
is enroll($one, "/$path"), 1, 'a key with odd bytes';
is copy(@to_key, $state, $uri), 0, 'is copied';
is $number{added}, 1, 'as the only one';

sub revoke {
    my ($t, $ref) = @_;
    return $t->call('DELETE', "/api/hooks?key=$ref")->{status};
}

for my $uri ("/$path", '/hook/7') {
    revoke($fleet, $uri eq '/hook/7' ? 'localhost/hook/7' : $escaped);
    $fleet->handshake($uri, 'another-secret-of-the-fleet');
}
is enroll($fleet, '/only/fleet'), 1, 'a key that only the fleet has';
is enroll($one,   '/only/one'),   1, 'a key that only one host has';
my $before = $pg->sql('TABLE asana_hook.secrets');
is copy(@to_key, $state, $uri), 1, 'other secrets for two keys';
like $text, qr/^conflict  localhost\/hook\/7$/m,   'named';
like $text, qr/^conflict  ref:\Q$escaped\E$/m,     'escaped';
like $text, qr/other secrets for 2 keys.*nothing was written.*--replace/,
    'counted, with the way out';
is $pg->sql('TABLE asana_hook.secrets'), $before, 'nothing was written';
is $fleet->deliver('/hook/7', 'another-secret-of-the-fleet', $body)->{status},
    200, 'the fleet has its own';

is copy('--replace', @to_key, $state, $uri), 0, '--replace';
is_deeply \%number, {
    keys            => $n + 2,
    secrets         => $n + 2,
    pending         => 3,
    added           => 1,
    'already there' => $n - 1,
    replaced        => 2,
    'left alone'    => 1,
    unreadable      => 0
}, 'its numbers' or diag $text;
is verify($fleet, '/hook/7', "/$path", '/only/one', '/only/fleet'), 4,
    'the fleet verifies by what was copied at once';
ok wait_for(sub {
    $fleet->deliver('/hook/7', 'another-secret-of-the-fleet', $body)->{status}
        == 403
}, 3), 'and forgets what was replaced';

# back into a new directory

my $back = Receiver->new(location => $enroll, http => $map, server => $api);
my $new  = "$back->{dir}/state";
my @from_key = (@zone, '--from-key', $key);

$pg->sql("UPDATE asana_hook.secrets SET gid='120$_'"
        . " WHERE key='localhost/hook/$_'")
    for 5, 6;
is copy('--dry-run', @from_key, $uri, $new), 0, 'a dry run';
ok !-e $new, 'makes no directory';
is copy(@from_key, $uri, $new), 0, 'into a new directory' or diag $text;
is $number{added}, $n + 3, 'all of it';
is sprintf('%o', (stat $_)[2] & oct 7777), -d $_ ? '700' : '600', 'its mode'
    for $new, glob "$new/*";
like $text, qr/chown -R www-data: \Q$new\E$/m, 'tells of the owner';
own($new);

sub webhooks {
    my ($dir) = @_;
    return join ' ', map { ($_->[0], substr $_->[1], 8) }
        pairs($dir, 'secrets_by_gid');
}

sub plain {
    my ($dir) = @_;
    my $records = records($dir);
    delete $_->{serial} for map { @{$_} } values %{$records};
    return $records;
}

{
    my ($was, $is) = (plain($state), plain($new));
    delete $is->{'localhost/only/fleet'};

    # the fleet wrote back that these verified
    for my $records ($was, $is) {
        delete $records->{$_}
            for map({"localhost$_"} @all), 'localhost/only/one',
            "localhost/$odd";
    }
    is_deeply $is, $was, 'pending secrets are what they were';
    is $is->{'localhost/wait/1'}[0]{pending}, 1, 'pending';
}
{
    my %ages = map {
        my $age = $_;
        map { (substr $_->[1], 8) => $age } pairs($new, "${age}_by_age");
    } qw(pending unproven proven);
    is scalar keys %ages, $n + 3, 'each one is in an order by age';
    is scalar(pairs($new, 'secrets_by_id')), $n + 3, 'and in that by id';
    is webhooks($new), '1205 localhost/hook/5 1206 localhost/hook/6',
        'by the gid of its webhook';
    is $ages{'localhost/wait/1'}, 'pending', 'by its state';
    is $ages{'localhost/hook/1'}, 'proven', 'by its times';
}
$back->app->run;
is verify($back, @all, "/$path", '/only/one', '/only/fleet'), @all + 3,
    'nginx verifies deliveries of all of them';
is enroll($back, '/later'), 1, 'and takes new ones';

# into a directory that a running nginx uses

$back->call('DELETE', '/api/hooks?key=localhost/hook/5');
$back->call('DELETE', '/api/hooks?key=localhost/hook/6');
is $back->handshake('/hook/6', 'another-secret-of-back')->{status}, 200,
    'another secret there';
is copy(@from_key, $uri, $new), 1, 'a conflict there';
is verify($back, '/hook/5'), 0, 'nothing was written';
is copy('--replace', @from_key, $uri, $new), 0, 'replaced there' or diag $text;
is "$number{added} $number{replaced} $number{'left alone'}", '1 1 1',
    'its numbers';
is verify($back, '/hook/5', '/hook/6', '/later'), 3, 'a running nginx has them';
is $back->deliver('/hook/6', 'another-secret-of-back', $body)->{status}, 403,
    'and not the replaced one';
is scalar(pairs($new, 'secrets_by_id')), $n + 4, 'no index keeps it';
is webhooks($new), '1205 localhost/hook/5 1206 localhost/hook/6',
    'the gids of their webhooks are known';
is scalar(map { pairs($new, "${_}_by_age") } qw(pending unproven proven)),
    $n + 4, 'neither by age';
is enroll($back, '/last'), 1, 'handshakes go on';

# killed: the new directory has nothing, or all of it

($killed, %left) = (0);
$took = time;
is copy(@from_key, $uri, "$pg->{dir}/whole"), 0, 'into a directory';
$took = time - $took;
for my $round (1 .. 8) {
    my $dir = "$pg->{dir}/killed.$round";
    my $pid = start(@from_key, $uri, $dir);
    sleep $took * (0.3 + rand 0.9);
    $killed++ if kill 'KILL', $pid;
    waitpid $pid, 0;
    $left{ keys %{ records($dir) } }++;
}
is join(' ', grep { $_ != $n + 3 && $_ != 0 } keys %left), '',
    "killed $killed times, it is empty, or whole"
    or diag explain \%left;

# encrypted directories

my $other  = $pg->key_file('other', 2);
my $sealed = "$pg->{dir}/sealed";
is copy(@zone, '--to-key', $other, $new, $sealed), 0, 'encrypted' or diag $text;
is unpack('N', (pairs($sealed, 'meta'))[-1][1]), 3, 'format 3';
unlike scalar(qx(cat $sealed/data.mdb)), qr/plain-secret/, 'nothing is in clear';

sub used {
    my %meta = map { @{$_} } pairs($sealed, 'meta');
    my %used = unpack '(a4 Q>)*', $meta{keys_used};
    return join ' ', map {"$_->[0]:$_->[1]"} sort { $a->[0] cmp $b->[0] }
        map { [unpack('H*', $_), $used{$_}] } keys %used;
}

sub key_id { return substr sha256_hex(chr($_[0]) x 32), 0, 8 }

is used(), key_id(2) . ':' . ($n + 5), 'how many secrets its key has';
is copy(@zone, '--from-key', $other, '--to-key', $key, $sealed, $uri), 0,
    'encrypted anew' or diag $text;
is "$number{added} $number{'already there'}", '2 ' . ($n + 3), 'what was new';
is verify($fleet, '/later', '/last'), 2, 'the fleet verifies it';
is copy(@from_key, qw(--zone-to renamed --to-key), $other, $uri, $uri), 0,
    'between zones of one database' or diag $text;
is $number{added}, $n + 5, 'all of it';
is copy(qw(--zone renamed --from-key), $key, $uri, "$pg->{dir}/clear"), 1,
    'which are encrypted anew';
is copy(@from_key, '--to-key', $key, $uri, $uri), 2, 'but not with itself';
is copy($sealed, "$pg->{dir}/clear"), 1, 'an encrypted one needs a key';
is copy(@zone, '--from-key', $key, $sealed, "$pg->{dir}/clear"), 1,
    'the right one';
my $wants = sprintf '%s is encrypted by key %s,',
    substr(sha256_hex(secret('/hook/1')), 0, 16),
    key_id(2);
like $text, qr/^unreadable  localhost\/hook\/1 $wants/m,
    'names key, id, and what it takes';
ok !-e "$pg->{dir}/clear", 'nothing was written';
is copy(qw(--zone nobody --from-key), $other, $sealed, "$pg->{dir}/clear"), 1,
    'the name of another zone';
is copy(@zone, '--from-key', $other, $sealed, "$pg->{dir}/clear"), 0,
    'in clear again';
is_deeply plain("$pg->{dir}/clear"), plain($new), 'as it was';
is copy(@zone, '--to-key', $other, $state, "$pg->{dir}/clear"), 1,
    'one in clear does not become encrypted';
is copy($state, $sealed), 1, 'nor an encrypted one clear';
is copy(@to_key, $state, $sealed), 1, 'another key than that of TO';
like $text, qr/nothing that TO has can be decrypted/, 'says so';
revoke($one, 'localhost/hook/9');
is $one->handshake('/hook/9', 'another-secret-of-one')->{status}, 200,
    'another secret';
is copy('--replace', @zone, '--to-key', $pg->key_file('both', 3, 2), $state,
    $sealed), 0, 'a new key in front of it';
is "$number{added} $number{replaced}", '0 1', 'one was replaced';
is used(), join(' ', key_id(3) . ':1', key_id(2) . ':' . ($n + 4)),
    'by the new key';
is copy('--replace', '--zone', 'hooks', '--to-key', $other, $state, $uri), 1,
    'the same with a database';

# what was changed in the database, and other damage

$pg->sql(q(UPDATE asana_hook.secrets SET pending=false WHERE pending));
is copy(@from_key, $uri, "$pg->{dir}/changed"), 1, 'a row that was changed';
like $text, qr/^unreadable  localhost\/wait\/2\?? [\da-f]{16} was changed/m,
    'is named';
ok !-e "$pg->{dir}/changed", 'nothing was written';
$back->stop;
load($back->{dir}, 'hooks', 'localhost/damaged', "\2bad");
is copy(@to_key, $new, $uri), 1, 'a damaged value';
like $text, qr/^unreadable  localhost\/damaged damaged$/m, 'is named';

# no room

{
    my $full = "$pg->{dir}/full";
    my @args = (@zone, '--from-key', "$pg->{dir}/both", $sealed, $full);
    local $ENV{COPY} = "$^X tools/asana-hook-copy @args";
    is system('ulimit -f 400; exec $COPY >/dev/null 2>&1') >> 8, 3, 'no room';
    is keys %{ records($full) }, 0, 'nothing was written';
    is copy(@args), 0, 'with room';
}

# files that LMDB would not survive

mkdir "$pg->{dir}/cut", 0700;
system "head -c 40960 $state/data.mdb >$pg->{dir}/cut/data.mdb";
is copy(@to_key, "$pg->{dir}/cut", $uri), 3, 'a file that was cut short';
like $text, qr/cut short/, 'says so';
rename "$state/lock.mdb", "$state/lock.old";
is copy(@to_key, $state, $uri), 3, 'lock.mdb was replaced under nginx';
like $text, qr/replaced while in use/, 'says so';
rename "$state/lock.old", "$state/lock.mdb";
is copy(@to_key, $state, $uri), 1, 'put back';

diag sprintf '%d keys into PostgreSQL: %.2f s, into a directory: %.2f s', $n,
    $seconds, $took;

$_->secrecy('plain-secret') for $one, $fleet, $back;
$_->end for $one, $fleet, $back;
$pg->end;

done_testing;
