# Tests for the scanner that reads Asana's answer to a create call: what is
# JSON (RFC 8259) and what is not, through the gateway.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver;

my $t = Receiver->new(
    location => 'asana_hook_enroll confirm;',
    server   => 'location = /create {
        asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
    }'
);
$t->{server} =~ s/APP/$t->{app_port}/;
$t->app->run;

my $secret = 'a-secret/with"all\\that-0123456789';
my $text   = 'a-secret/with\\"all\\\\that-0123456789';
my $member = qq("X-Hook-Secret":"$text");

$t->handshake('/a', $secret);
$t->words;

sub word {
    my ($answer) = @_;
    $t->answer(201, '', $answer);
    my $r = $t->call('POST', '/create', [], 'x');
    return "$r->{status} with $r->{body}"
        if $r->{status} != 201 || $r->{body} ne $answer;
    return join ' ', $t->words;
}

sub is_word {
    my ($answer, $word, $name) = @_;
    my $show = substr $answer, 0, 60;
    $show =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
    is word($answer), $word, "$name: $show";
    return;
}

# the value of a member, as text of the secret

my @whole = (
    '\\u0061' . substr($text, 1),
    "\\u0061\\u002D" . substr($text, 2),
    'a-secret\\/with\\u0022all\\u005cthat-0123456789',
    'a-secret\\u002fwith\\u0022all\\u005Cthat-012345678\\u0039',
);
is_word(qq({"X-Hook-Secret":"$_"}), 'CONFIRMED', 'the value') for @whole;
is_word(qq({"\\u0058-Hook-Secre\\u0074":"$text"}), 'CONFIRMED', 'the name');
is_word(qq({"X-Hook-Secret":"$text$_"}), 'UNREADABLE', 'not visible')
    for map {"\\$_"} qw(b f n r t u0000 u007f u00e9 u20ac ud83d\\ude00);
is_word(qq({"X-Hook-Secret":"$_$text"}), 'UNMATCHED', 'another value')
    for 'a', '\\\\', '\\"', '\\/', '\\u007e';

# one too long by what an escape stands for

for my $case (
    ['x' x 255, 'UNMATCHED'],
    ['x' x 256, 'UNREADABLE'],
    ['x' x 254 . '\\u0078', 'UNMATCHED'],
    ['x' x 255 . '\\u0078', 'UNREADABLE'],
    ['\\u0078' x 255, 'UNMATCHED'],
    ['x' x 253 . '\\u20ac', 'UNREADABLE'],
    ['x' x 60_000, 'UNREADABLE'],
    ['x' x 16, 'UNMATCHED'],
    ['x' x 15, 'UNREADABLE'],
    ['', 'UNREADABLE']
    )
{
    is_word(qq({"X-Hook-Secret":"$case->[0]"}), $case->[1], 'a length');
}

# other names, which are longer, shorter or alike

is_word(qq({"$_":"$text"}), 'UNREADABLE', 'another name')
    for '', 'x-hook-secret', 'X-Hook-Secre', 'X-Hook-Secret ',
    'X-Hook-Secret\\u0000', 'X-Hook-Secret' . 'x' x 40, 'y' x 13;
is_word(qq({"$_":1,$member}), 'CONFIRMED', 'beside it')
    for '', 'x' x 32, 'x' x 33, 'X-Hook-Secret' x 900, '\\u20ac' x 13;

# any other value: what is none, and all of them

my @none = split ' ', <<'END';
- + +1 .5 1. -.5 01 -01 00 1e 1e+ 1e- 1e1.5 1.e1 0x1 1a NaN Infinity 1,2 tru
t fals nul n True NULL truex trux falsy nulk ' a [ [1 [1, [,] [1,] [1}
[1,,2] ] { } {1:2} {"a"} {"a":} {"a":1,} {"a":1] {,} {a:1} {"a":1,"b"}
{"a"1} {'a':1} {"a" " "a\" "\x" "\u" "\u0" "\u00" "\u000" "\u000g" "\u-001"
"\U0000" "\'" "\ud800" "\udc00" "\udfff" "\ud800\ud800" "\ud800\u0041"
"\ud800\n" "\ud800xudc00" "\udc00\ud800" "\ud800\ue000" "\ud800\udbff"
"\ud800\udc0" "\ud800\uzzzz" "\ud83d" "\udc00\udc00" "\udfff\udfff"
END

my @values = (
    (map { [$_, 1] } qw(0 -0 1 -1 10 0.0 0.10 -0.5 1e1 1E1 1e+1 1E-1 0e0
        1.5e10 123456789012345678901234567890 true false null "" [] {}),
        '"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\u0000"', '"\\u007F"', '"\\u0080"',
        '"\\u07ff"', '"\\u0800"', '"\\uFFFF"', '"\\ud7ff\\ue000"',
        '"\\ud800\\udc00"', '"\\uDBFF\\uDFFF"', "\"\x7f\"", "\"\xc3\xa9\"",
        '[ ]', "{\t}", '[1,[2,{"a":[]}],{}]', '{"a":1,"a":2}',
        '{"":{"":""}}', "\r\n [ 1 ,\t2 ] ", '{"X-Hook-Secret":1}',
        '[' x 64 . ']' x 64, '[' x 63 . '1' . ']' x 63,
        '{"a":' x 63 . '{}' . '}' x 63),
    (map { [$_, 0] } @none, '', '"a" "b"', '{} {}',
        qq("\\\0"), "\"\0\"", "\"\x1f\"", "\"\n\"", "\"\t\"", "\x0b1",
        "\xa01", "\"a\"\0", "1\x0c", '/* */1', '1 1',
        '[' x 65 . ']' x 65, '[' x 64 . '1' . ']' x 64,
        '{"a":' x 64 . '{}' . '}' x 64, '[' x 30_000, '{"a":' x 10_000)
);

for my $case (@values) {
    my ($value, $good) = @$case;
    my $word = $good ? 'CONFIRMED' : 'UNREADABLE';
    is_word(qq({"v":$value,$member}), $word, 'before');
    is_word(qq({$member,"v":$value}), $word, 'behind');
    is_word(qq({"X-Hook-Secret":$value}), 'UNREADABLE', 'in its place');
}

# the whole of it

is_word($_, 'CONFIRMED', 'the object')
    for " \t\r\n{ \t\r\n$member \t\r\n} \t\r\n", "{$member}\n" . ' ' x 9999;
is_word($_, 'UNREADABLE', 'no object')
    for '{}', ' { } ', '[]', "[$member]", "\"$text\"", 'null', '1', ' ',
    "\xef\xbb\xbf{$member}", "{$member}}", "{$member},", "{$member}{}",
    "{$member}\0", "\0{$member}", "{$member", "$member}", "{,$member}",
    "{$member,}", "{$member,,\"a\":1}", "{$member \"a\":1}", "{$member:1}",
    "{$member]", "{\"v\":{$member}}", "{\"v\":[\"$text\"]}";

# twice, in whatever order and spelling

is_word($_, 'UNREADABLE', 'twice')
    for "{$member,$member}", "{$member,\"a\":1,$member}",
    qq({$member,"\\u0058-Hook-Secret":"$text"}),
    qq({$member,"X-Hook-Secret":null}), qq({"X-Hook-Secret":"",$member});

# cut everywhere

my $all = qq( {"a":[1,-0.5e+3,true,false,null,[],{}],"b":"\\ud83d\\ude00\\n",)
    . qq("\\u0058-Hook-Secret" : "\\u0061) . substr($text, 1)
    . qq(","c":{"d":"\\u20ac"}});
is_word($all, 'CONFIRMED', 'whole');
my @cut = grep {!/UNREADABLE$/}
    map { "$_ " . word(substr $all, 0, $_) } 0 .. length($all) - 1;
is "@cut", '', 'cut anywhere it is none';

is $t->deliver('/a', $secret, 'x')->{status}, 200, 'its secret is active';
$t->secrecy($secret, $text);
$t->end;

done_testing;
