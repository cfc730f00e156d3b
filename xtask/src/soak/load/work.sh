# What one terminal of `cargo xtask soak load` does, by `sh -eu`, in the view.
# Arguments: the kind of work, the terminal's number, for how many seconds.
# Says `rounds N` when all that it did is there; anything else is a failure.
kind=$1
number=$2
seconds=$3

fail() {
    echo "$kind: $1" >&2
    exit 1
}
until=$(($(date +%s) + seconds))
rounds=0
# Whether there is time for another round; there is for one.
going() {
    [ "$rounds" -eq 0 ] || [ "$(date +%s)" -lt "$until" ] || return 1
    rounds=$((rounds + 1))
}

top=$PWD
mkdir -p "work/$kind-$number"
cd "work/$kind-$number"
case $kind in
git)
    [ -d .git ] || git init --quiet .
    before=$(git rev-list --count --all)
    while going; do
        echo "$rounds" >>"file-$((rounds % 7))"
        git add --all
        git commit --quiet --message "round $rounds"
    done
    git fsck --strict --no-progress >fsck.log 2>&1 || fail "$(cat fsck.log)"
    rm fsck.log
    [ "$(git rev-list --count HEAD)" -eq $((before + rounds)) ] || fail 'commits are missing'
    [ -z "$(git status --porcelain)" ] || fail "not clean: $(git status --porcelain)"
    ;;
build)
    sum=0
    for unit in 1 2 3 4; do
        echo "int unit$unit(void) { return $unit; }" >"unit$unit.c"
        sum="$sum + unit$unit()"
    done
    printf '%s\n' 'OBJECTS = main.o unit1.o unit2.o unit3.o unit4.o' \
        'program: $(OBJECTS)' '	$(CC) -o $@ $(OBJECTS)' >Makefile
    while going; do
        printf '%s\n' '#include <stdio.h>' \
            'int unit1(void); int unit2(void); int unit3(void); int unit4(void);' \
            "int main(void) { printf(\"%d\\n\", $rounds + $sum); return 0; }" >main.c
        make --silent --always-make
        [ "$(./program)" -eq $((rounds + 10)) ] || fail "the program is not that of round $rounds"
    done
    ;;
editor)
    while going; do
        echo "text of round $rounds" >.text.swp
        cat "$top/base/needle" >>.text.swp
        sync .text.swp
        mv .text.swp text
        [ "$(head -n 1 text)" = "text of round $rounds" ] || fail 'not what was saved'
        [ "$(wc -l <text)" -eq 2 ] || fail 'not all that was saved'
    done
    ;;
sqlite)
    database=../shared.db
    sql() {
        sqlite3 -bail -cmd '.timeout 60000' "$database" "$1"
    }
    sql 'CREATE TABLE IF NOT EXISTS done (terminal, round, text)' || fail 'no table'
    before=$(sql "SELECT count(*) FROM done WHERE terminal = $number")
    while going; do
        sql "BEGIN IMMEDIATE; INSERT INTO done VALUES ($number, $rounds, hex(randomblob(500)));
            UPDATE done SET text = hex(randomblob(600))
            WHERE terminal = $number AND round = $rounds; COMMIT"
    done
    after=$(sql "SELECT count(*) FROM done WHERE terminal = $number")
    [ "$after" -eq $((before + rounds)) ] || fail "$after rows, not $((before + rounds))"
    [ "$(sql 'PRAGMA integrity_check')" = ok ] || fail 'not sound'
    ;;
grep)
    while going; do
        [ "$(grep -rlx 'a needle' "$top/base")" = "$top/base/needle" ] || fail 'not the one needle'
    done
    ;;
tree)
    while going; do
        cp -r "$top/base/src" packages
        diff -r "$top/base/src" packages || fail 'the copy differs'
        rm -rf old
        mv packages old
    done
    [ "$(find old -type f | wc -l)" -eq "$(find "$top/base/src" -type f | wc -l)" ] ||
        fail 'files are missing'
    rm -rf old
    ;;
*)
    fail 'no such work'
    ;;
esac
echo "rounds $rounds"
