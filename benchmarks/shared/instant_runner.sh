# A runner without a program, for any POSIX shell, a phone's too: made-up samples, at once.
crc32() { # gzip ends in it, least byte first
    printf %s "$1" | gzip -c | tail -c 8 | od -An -tx1 | {
        read -r a b c d rest
        echo "$d$c$b$a"
    }
}
say() { # the ready line, which nothing asked for, has its check always
    case $line in
    '' | *'"check"'*) echo "${1%\}}, \"crc32\": \"$(crc32 "$line${1%\}}")\"}" ;;
    *) echo "$1" ;;
    esac
}
line=
say '{"event": "ready", "load_ns": 1, "threads": 1}'
while IFS= read -r line; do
    case $line in
    *'"exit"'*) exit 0 ;;
    *'"time"'*)
        count=${line##*'"iterations": '}
        count=${count%%[!0-9]*}
        samples=1000000
        while [ "$count" -gt 1 ]; do
            samples="$samples, $((1000000 + count))"
            count=$((count - 1))
        done
        say "{\"wall_ns\": [$samples], \"cpu_ns\": [$samples]}"
        ;;
    *) say '{"error": "unknown request"}' ;;
    esac
done
