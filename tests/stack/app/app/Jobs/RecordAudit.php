<?php

namespace App\Jobs;

use Illuminate\Bus\Queueable;
use Illuminate\Contracts\Queue\ShouldQueue;
use Illuminate\Foundation\Bus\Dispatchable;
use Illuminate\Queue\InteractsWithQueue;
use Illuminate\Support\Facades\DB;

class RecordAudit implements ShouldQueue
{
    use Dispatchable, InteractsWithQueue, Queueable;

    public int $tries = 3;

    public int $timeout = 75;

    public function __construct(
        public string $id,
        public int $userId,
        public int $sleepMs = 0,
        public bool $fails = false,
    ) {
    }

    public function handle(): void
    {
        if ($this->fails) {
            $this->fail(new \RuntimeException("job $this->id was told to fail"));

            return;
        }
        usleep($this->sleepMs * 1000);
        DB::table('audit_log')->insert([
            'user_id' => $this->userId,
            'action' => 'job.done',
            'subject' => $this->id,
            'payload' => json_encode(['attempt' => $this->attempts(), 'sleep_ms' => $this->sleepMs]),
        ]);
    }
}
